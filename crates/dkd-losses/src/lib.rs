//! Knowledge-distillation losses on candle tensors
