"""Evaluation: metrics over scikit-learn, a checkpoint measured on a labelled data set, the plots of both."""
