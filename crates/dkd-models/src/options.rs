//! What a caller chooses when it builds a model.

use crate::{Error, Result};

/// Options that every model takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelOptions {
    /// Length of the logits.
    pub num_classes: usize,
    /// Channels, height and width of the images.
    pub image: (usize, usize, usize),
    /// Dropout probability in [0, 1), in the place of the model's own; models without dropout ignore it.
    pub dropout: Option<f32>,
}

impl ModelOptions {
    /// RGB images of 32x32 pixels and the model's own dropout.
    pub fn new(num_classes: usize) -> Self {
        Self { num_classes, image: (3, 32, 32), dropout: None }
    }

    /// Sets channels, height and width of the images.
    pub fn image(mut self, channels: usize, height: usize, width: usize) -> Self {
        self.image = (channels, height, width);
        self
    }

    /// Sets the dropout probability.
    pub fn dropout(mut self, probability: f32) -> Self {
        self.dropout = Some(probability);
        self
    }

    /// Rejects values that no model can be built with.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |option, value: String, expected| Err(Error::Option { option, value, expected });
        if self.num_classes == 0 {
            return fail("num_classes", "0".to_owned(), "at least one class");
        }
        let (c, h, w) = self.image;
        if c * h * w == 0 {
            return fail("image", format!("{c}x{h}x{w}"), "channels, height and width of at least 1");
        }
        match self.dropout {
            Some(p) if !(0.0..1.0).contains(&p) => fail("dropout", p.to_string(), "a probability in [0, 1)"),
            _ => Ok(()),
        }
    }
}
