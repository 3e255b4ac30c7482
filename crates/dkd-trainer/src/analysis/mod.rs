//! Understanding a distillation: how the terms of its loss went, and what teacher and student say about the same images.
//!
//! [`term_curves`] reads an event log. [`Answers`] are what a network says about a split; from them come [`NetworkReport`]
//! (accuracy, confidence, calibration), [`compare`] (agreement, divergences, gradients, correlations between classes) and
//! [`tsne`]. Nothing here trains, and all of it is the same for any number of threads; [`tsne`] says under which condition.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use dkd_losses::Temperature;
//! use dkd_trainer::analysis::{Answers, NetworkReport, compare};
//! let labels = vec![0, 1];
//! let said = |logits: &[[f32; 3]; 2]| -> dkd_trainer::Result<Answers> {
//!     Ok(Answers { logits: Tensor::new(logits, &Device::Cpu)?, labels: labels.clone(), features: Vec::new() })
//! };
//! let teacher = said(&[[4.0, 1.0, 0.0], [0.0, 3.0, 1.0]])?;
//! let student = said(&[[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]])?;
//! let pair = compare(&teacher, &student, Temperature::FOUR)?;
//! assert_eq!((pair.agreement.same, pair.agreement.only_teacher_right), (50.0, 50.0));
//! assert!(NetworkReport::of(&teacher)?.entropy < NetworkReport::of(&student)?.entropy);
//! # Ok::<(), dkd_trainer::Error>(())
//! ```

mod agreement;
mod answers;
mod correlation;
mod divergence;
mod gradients;
mod network;
mod pair;
mod terms;
mod tsne;
mod weights;

pub use agreement::Agreement;
pub use answers::{Answers, Wanted, answers};
pub use correlation::{Difference, class_logits_difference, correlation, difference};
pub use divergence::Divergence;
pub use gradients::{Cosines, Gradients, Pull};
pub use network::NetworkReport;
pub use pair::{PairReport, compare};
pub use terms::{TermCurve, TermPoint, term_curves};
pub use tsne::{MAX_POINTS, choose, tsne};
pub use weights::{TermWeight, term_weights};
