"""transformers' Trainer, in layers, from the bottom: `BatchTrainer` → `ResumingTrainer` → `EmaLoraTrainer` →
`ViTCustomTrainer`, the one that is used.

| Trainer's hook | overridden by | why |
|---|---|---|
| _get_train_sampler | BatchTrainer | an order that streams, resumes and balances classes |
| get_eval_dataloader, get_test_dataloader | BatchTrainer | every image once, on however many processes |
| get_batch_samples | BatchTrainer | the time spent waiting for data |
| _prepare_inputs | BatchTrainer | augmentation of the batch, on the device |
| compute_loss | BatchTrainer, ViTCustomTrainer | the objective's targets; a frozen part stays in eval mode |
| log | BatchTrainer, ResumingTrainer | throughput; mean loss and speed across interruptions |
| evaluation_loop | BatchTrainer, EmaLoraTrainer | one prediction for each image; by the served weights |
| prediction_step | BatchTrainer | a value for each image, of objectives without labels |
| training_step, _get_grad_norm | ResumingTrainer | a NaN or infinite loss or gradient ends the run |
| train, _run_epoch | ResumingTrainer | an interrupted run resumes bit for bit |
| _get_output_dir, _save_checkpoint | ResumingTrainer | checkpoints written aside, sealed and renamed |
| _save | ResumingTrainer, EmaLoraTrainer | finite weights only; adapters merged |
| _save_optimizer_and_scheduler | ResumingTrainer, EmaLoraTrainer | finite state; the trained weights beside it |
| _load_from_checkpoint, _load_optimizer_and_scheduler | EmaLoraTrainer | trained weights, average |
| _load_best_model | ResumingTrainer, EmaLoraTrainer | the best checkpoint, if undamaged; its served weights |
| _issue_warnings_after_load | ResumingTrainer | missing or unexpected weights are an error |
| _finalize_training | EmaLoraTrainer | the model keeps the served weights |
| save_model | EmaLoraTrainer, ViTCustomTrainer | whole and plain; written aside, with its records |
| get_decay_parameter_names, create_optimizer | ViTCustomTrainer | only matrices decay; Muon; learning rates by depth |
| create_scheduler | ViTCustomTrainer | a schedule stretched to a time budget |
| floating_point_ops | ViTCustomTrainer | Trainer's estimate counts tokens of text |
| init_hf_repo, push_to_hub | ViTCustomTrainer | staged and checked pushes |
| _push_from_checkpoint, _finish_current_push | ViTCustomTrainer | the same, in the background |
"""
