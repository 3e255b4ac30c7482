//! Training and distillation runs: configuration, the step, optimizers, events and run folders
