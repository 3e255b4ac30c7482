//! Methods from outside of this crate, by name.

use crate::{Batch, Error, Method, Objective, Result, Term};
use candle_core::Tensor;
use std::fmt;
use std::sync::{PoisonError, RwLock};

/// A loss as one function: from what student and teacher say about a batch to a scalar in f32.
pub type LossFunction = fn(&Batch) -> Result<Tensor>;

/// A method that was registered.
#[derive(Clone, Copy)]
pub struct Custom {
    name: &'static str,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    Function(LossFunction),
    Objective(fn() -> Box<dyn Objective>),
}

/// Methods of this process.
static REGISTERED: RwLock<Vec<Custom>> = RwLock::new(Vec::new());

/// Makes `function` the method `name`, for [`Method::named`] and everything that is built on it: a configuration then says
/// `method = "name"`, with a weight, a warm-up and standardised logits like any other. It is called with a teacher's outputs in the batch;
/// a loss that needs none, reads feature maps or owns parameters is an [`Objective`]: [`register_objective`].
///
/// ```
/// use dkd_losses::{Batch, Method, Result, register_loss};
///
/// fn distance(batch: &Batch) -> Result<candle_core::Tensor> {
///     let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("distance")?);
///     Ok((student - teacher.detach())?.sqr()?.mean_all()?)
/// }
///
/// register_loss("distance", distance)?;
/// assert_eq!(Method::named("distance")?.name(), "distance");
/// # Ok::<(), dkd_losses::Error>(())
/// ```
///
/// # Errors
/// [`Error::MethodExists`].
pub fn register_loss(name: &'static str, function: LossFunction) -> Result<()> {
    register(Custom { name, source: Source::Function(function) })
}

/// Makes what `build` builds the method `name`, as [`register_loss`] does for a function.
///
/// # Errors
/// [`Error::MethodExists`].
pub fn register_objective(name: &'static str, build: fn() -> Box<dyn Objective>) -> Result<()> {
    register(Custom { name, source: Source::Objective(build) })
}

fn register(custom: Custom) -> Result<()> {
    let mut all = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if Method::NAMES.contains(&custom.name) || all.iter().any(|c| c.name == custom.name) {
        return Err(Error::MethodExists { name: custom.name.to_owned() });
    }
    all.push(custom);
    Ok(())
}

impl Custom {
    /// The registered method called `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        REGISTERED.read().unwrap_or_else(PoisonError::into_inner).iter().find(|c| c.name == name).copied()
    }

    /// The names of all registered methods.
    pub(crate) fn names() -> Vec<&'static str> {
        REGISTERED.read().unwrap_or_else(PoisonError::into_inner).iter().map(|c| c.name).collect()
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The objective.
    pub(crate) fn build(&self) -> Box<dyn Objective> {
        match self.source {
            Source::Function(function) => Box::new(Function { name: self.name, function }),
            Source::Objective(build) => build(),
        }
    }
}

/// By the name, which is unique.
impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

/// A function as an objective.
struct Function {
    name: &'static str,
    function: LossFunction,
}

impl Objective for Function {
    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        Ok(vec![Term::new(self.name, (self.function)(batch)?, 1.0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CrossEntropy, View};
    use candle_core::Device;

    fn squares(batch: &Batch) -> Result<Tensor> {
        let (student, teacher) = (batch.student_logits()?, batch.teacher_logits("squares")?);
        Ok((student - teacher)?.sqr()?.mean_all()?)
    }

    #[test]
    fn registered_methods_are_found_by_name() {
        register_loss("squares", squares).unwrap();
        register_objective("plain", || Box::new(CrossEntropy::default())).unwrap();
        for taken in ["squares", "plain", "kd"] {
            let message = register_loss(taken, squares).unwrap_err().to_string();
            assert!(message.contains(taken), "{message}");
        }
        let method = Method::named("squares").unwrap();
        assert_eq!(
            (method.name(), method.needs_teacher(), method.reads_features()),
            ("squares", true, false)
        );
        assert_eq!(format!("{method:?}"), "Custom(\"squares\")");
        assert!(!Method::named("plain").unwrap().needs_teacher());
        let logits = |v: f32| Tensor::new(&[[v, 0.0]], &Device::Cpu).unwrap();
        let views = [View::new(logits(2.0), Some(logits(0.0)))];
        let labels = Tensor::new(&[0_u32], &Device::Cpu).unwrap();
        let terms = method.build().unwrap().terms(&Batch::new(&views, &labels)).unwrap();
        assert_eq!((terms[0].name.as_str(), terms[0].value.to_scalar::<f32>().unwrap()), ("squares", 2.0));
        let message = Method::named("square").unwrap_err().to_string();
        assert!(
            message.contains("dkd_reference, squares, plain") || message.contains("dkd_reference, plain"),
            "{message}"
        );
    }
}
