"""transformers' Trainer, in layers, from the bottom: `BatchTrainer` → `ResumingTrainer` → `WeightsTrainer` →
`ViTCustomTrainer`, the one that is used.

| Trainer's hook | overridden by | why |
|---|---|---|
| _get_train_sampler | BatchTrainer | an order that streams, resumes and balances classes |
| get_eval_dataloader, get_test_dataloader | BatchTrainer | every image once, on however many processes |
| get_batch_samples | BatchTrainer | the time spent waiting for data |
| _prepare_inputs | BatchTrainer | augmentation of the batch, on the device |
| compute_loss | BatchTrainer, ViTCustomTrainer | the objective's targets; a frozen part stays in eval mode |
| log | BatchTrainer, ResumingTrainer | throughput; numbers that JSON has |
| evaluation_loop | BatchTrainer, WeightsTrainer | as many predictions as images; of the weights that serve |
| training_step, _get_grad_norm | ResumingTrainer | a loss or gradient that is no number ends the run |
| train, _run_epoch | ResumingTrainer | a run that was cut off goes on bit for bit |
| _get_output_dir, _save_checkpoint | ResumingTrainer | checkpoints written aside, sealed and renamed |
| _save | ResumingTrainer, WeightsTrainer | no weights that are not finite; adapters merged |
| _save_optimizer_and_scheduler | ResumingTrainer, WeightsTrainer | finite state; the trained weights beside it |
| _load_from_checkpoint, _load_optimizer_and_scheduler | WeightsTrainer | trained weights, average |
| _load_best_model | ResumingTrainer, WeightsTrainer | the best checkpoint that is whole; what it serves |
| _issue_warnings_after_load | ResumingTrainer | weights that are missing are an error |
| _finalize_training | WeightsTrainer | the model becomes what serves |
| save_model | WeightsTrainer, ViTCustomTrainer | whole and plain; written aside, with its records |
| get_decay_parameter_names, create_optimizer | ViTCustomTrainer | matrices decay; Muon; rates by depth |
| create_scheduler | ViTCustomTrainer | a schedule that a budget of time stretches |
| floating_point_ops | ViTCustomTrainer | Trainer's estimate counts tokens of text |
| init_hf_repo, push_to_hub | ViTCustomTrainer | staged and checked pushes |
| _push_from_checkpoint, _finish_current_push | ViTCustomTrainer | the same, in the background |
"""
