//! Image classification networks of the distillation literature, by name
