//! The errors of this crate.

/// The result of a fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong when a loss is configured or computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A temperature that softmax cannot be divided by.
    #[error("temperature is {value}: it must be a finite number above 0 (DKD's papers use 1 to 8)")]
    Temperature {
        /// The rejected value.
        value: f64,
    },
    /// A setting of a method outside its range.
    #[error("setting `{key}` of method `{method}` is {value}: it must be {expected}")]
    Setting {
        /// The method's name.
        method: &'static str,
        /// The setting's name.
        key: &'static str,
        /// The rejected value.
        value: f64,
        /// What is accepted, in words.
        expected: &'static str,
    },
    /// A name that is no method.
    #[error("there is no method `{name}`; known are {known}")]
    UnknownMethod {
        /// The name asked for.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// A name that a method has already.
    #[error("there is a method `{name}` already: register yours under another name")]
    MethodExists {
        /// The name.
        name: String,
    },
    /// Two parts of a distiller share a name.
    #[error("two parts of the distiller are called `{name}`: give each its own name")]
    DuplicatePart {
        /// The name used twice.
        name: String,
    },
    /// NaN or infinity where numbers are needed.
    #[error(
        "`{tensor}` holds {value} in row {row}: the network has diverged or its input is damaged \
         (lower the learning rate, or look at that sample)"
    )]
    NotFinite {
        /// Which tensor.
        tensor: String,
        /// First affected row, counted from 0 within the batch.
        row: usize,
        /// The value found.
        value: f64,
    },
    /// A label that is no class.
    #[error("label {label} in row {row} is out of range: the logits have {classes} classes (0 to {})", classes - 1)]
    Label {
        /// The value found.
        label: i64,
        /// Row of the batch, counted from 0.
        row: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Labels that are not integers.
    #[error("labels have dtype {found:?}: class numbers must be integers (u32; u8 and i64 are accepted)")]
    LabelType {
        /// The dtype found.
        found: candle_core::DType,
    },
    /// A tensor of another shape than the loss needs.
    #[error("`{tensor}` has shape {found:?}, expected {expected}")]
    Shape {
        /// Which tensor.
        tensor: String,
        /// The shape needed, in words or numbers.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// The objective needs a teacher and the batch has none.
    #[error("`{objective}` needs the teacher's outputs, but view {view} has none: configure a teacher")]
    MissingTeacher {
        /// Which objective.
        objective: String,
        /// Position of the view in the batch.
        view: usize,
    },
    /// A batch without any view.
    #[error("the batch has no view {view}: it has {views}")]
    MissingView {
        /// The view asked for.
        view: usize,
        /// How many there are.
        views: usize,
    },
    /// A feature map that the network did not hand out.
    #[error("the {side} has no tap `{name}`; it has: {available}")]
    MissingTap {
        /// `student` or `teacher`.
        side: &'static str,
        /// The tap asked for.
        name: String,
        /// The taps that are there, separated by commas.
        available: String,
    },
    /// Networks that a method cannot compare.
    #[error("`{method}` cannot be used for these networks: {reason}")]
    Networks {
        /// The method's name.
        method: &'static str,
        /// Which feature maps, their shapes, and what to do.
        reason: String,
    },
    /// An objective that was asked before it knew the networks.
    #[error("`{method}` was not prepared for its networks: call `Objective::prepare` before the first step")]
    NotPrepared {
        /// The method's name.
        method: &'static str,
    },
    /// A parameter of a network that does not exist, or was not handed out.
    #[error("the network hands out no parameter `{name}`; it has: {available}")]
    MissingParameter {
        /// The name asked for.
        name: String,
        /// The names that are there, separated by commas.
        available: String,
    },
    /// A buffer that the objective does not own.
    #[error("the objective owns no buffer `{name}`: the checkpoint belongs to another configuration")]
    UnknownBuffer {
        /// The name asked for.
        name: String,
    },
    /// A failure inside candle.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
}

/// Names for an error message: sorted as given, `none` when empty.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
