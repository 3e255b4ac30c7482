//! The tiny teacher and student of the replication that this project grew from (`Daeen/DKD-on-simple-models`, 2023).
//!
//! Pooling has stride 1 and there is no activation after the convolutions, as the original notebooks have it.

use crate::{ModelOptions, Result};
use dkd_engine::{Conv2d, Graph, GraphBuilder, Linear, Pool, ValueId};

/// Dropout of the teacher, before its first fully connected layer.
const TEACHER_DROPOUT: f32 = 0.15;

/// Two convolutions with max pooling and batch norm, dropout, three fully connected layers.
pub(crate) fn teacher(o: &ModelOptions) -> Result<Graph> {
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let x = convolutions(&mut b, true);
    let x = b.flatten(x);
    let x = b.dropout(x, "dropout", o.dropout.unwrap_or(TEACHER_DROPOUT));
    let x = b.linear(x, Linear::new("dense1", 64));
    let x = b.relu(x);
    let x = b.linear(x, Linear::new("dense2", 32));
    let x = b.relu(x);
    b.tap("pooled_feat", x);
    let x = b.linear(x, Linear::new("dense3", o.num_classes));
    Ok(b.build(x)?)
}

/// Two convolutions with max pooling, two fully connected layers, and a ReLU on the logits, as published: a class whose
/// logit is negative in the original sense can only be told "not above zero".
pub(crate) fn student(o: &ModelOptions) -> Result<Graph> {
    let (mut b, logits) = student_body(o);
    let logits = b.relu(logits);
    Ok(b.build(logits)?)
}

/// The student without the ReLU on its logits.
pub(crate) fn student_linear(o: &ModelOptions) -> Result<Graph> {
    let (b, logits) = student_body(o);
    Ok(b.build(logits)?)
}

fn student_body(o: &ModelOptions) -> (GraphBuilder, ValueId) {
    let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
    let x = convolutions(&mut b, false);
    let x = b.flatten(x);
    let x = b.linear(x, Linear::new("dense1", 16));
    let x = b.relu(x);
    b.tap("pooled_feat", x);
    let logits = b.linear(x, Linear::new("dense2", o.num_classes));
    (b, logits)
}

/// Twice: 3x3 convolution without padding, 2x2 max pooling with stride 1, batch norm if asked for. Both are taps.
fn convolutions(b: &mut GraphBuilder, batch_norm: bool) -> ValueId {
    let mut x = b.input();
    for (i, channels) in [32, 64].into_iter().enumerate() {
        x = b.conv2d(x, Conv2d::new(format!("conv{}", i + 1), channels, 3).bias());
        x = b.max_pool(x, Pool::new(2).stride(1));
        if batch_norm {
            x = b.batch_norm(x, format!("batchnorm{}", i + 1));
        }
        b.tap(format!("feats.{i}"), x);
    }
    x
}
