"""Evaluation: a checkpoint measured on a labelled data set, a page of the results, metrics over scikit-learn."""
