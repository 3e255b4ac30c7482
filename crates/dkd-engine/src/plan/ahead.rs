//! What the steps of an image read and write: the convolutions of the image before it fetch this meanwhile
//! ([`dkd_kernels::ahead`]).

use super::backward::{BackwardStage, BackwardStep, DzSource};
use super::forward::{ForwardStep, Run, Stage};
use super::lower::Lowered;
use super::unit::{TensorId, Unit};

/// Elements that a run may touch for the next image's to be fetched: with this image's they must stay in a second-level cache of
/// 2 MiB for the most part. (Measured: 12 % gained for ShuffleV1, whose largest run touches 1 MiB; ResNet50 with runs of several
/// MiB lost.)
const MOST_ELEMENTS: usize = 320 * 1024;

/// The tensors of a run, each once, in the order of their first use; empty if no convolution in the run leaves time to fetch
/// them or they are too many.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Touched {
    pub values: Vec<TensorId>,
    pub gradients: Vec<TensorId>,
}

impl Touched {
    fn value(&mut self, t: TensorId) {
        if !self.values.contains(&t) {
            self.values.push(t);
        }
    }

    fn gradient(&mut self, t: TensorId) {
        if !self.gradients.contains(&t) {
            self.gradients.push(t);
        }
    }

    /// A value that is read: itself, or what it is made from again.
    fn read(&mut self, lowered: &Lowered, t: TensorId) {
        match lowered.tensors[t].recomputed_by {
            Some(unit) => lowered.units[unit].inputs().into_iter().for_each(|t| self.value(t)),
            None => self.value(t),
        }
    }

    /// As it is, or empty if it is too much for so many images at a time.
    fn bounded(self, lowered: &Lowered, images: usize) -> Self {
        let values = self.values.iter().map(|t| lowered.tensors[*t].map);
        let gradients = self.gradients.iter().map(|t| lowered.tensors[*t].gradient_map());
        let elements: usize = values.chain(gradients).map(|map| map.elements()).sum();
        if images * elements > MOST_ELEMENTS { Self::default() } else { self }
    }

    fn forward(&mut self, lowered: &Lowered, step: ForwardStep) {
        let ForwardStep::Unit(index) = step else { return };
        let unit = &lowered.units[index];
        unit.inputs().into_iter().for_each(|t| self.read(lowered, t));
        self.value(unit.output());
    }

    fn backward(&mut self, lowered: &Lowered, step: &BackwardStep) {
        match *step {
            BackwardStep::Conv { unit, source, input, .. } => {
                let Unit::Conv(c) = &lowered.units[unit] else { return };
                match source {
                    DzSource::Gradient => self.gradient(c.y),
                    DzSource::Norm { unit, .. } => {
                        self.gradient(lowered.units[unit].output());
                        self.value(c.y);
                    }
                }
                self.read(lowered, c.x);
                if input.is_some() {
                    self.gradient(c.x);
                }
            }
            BackwardStep::Complete { unit, residual } => {
                let Unit::Norm(n) = &lowered.units[unit] else { return };
                self.gradient(n.y);
                residual.into_iter().for_each(|t| self.gradient(t));
                lowered.units[unit].inputs().into_iter().for_each(|t| self.value(t));
                if n.relu && lowered.tensors[n.y].recomputed_by.is_none() {
                    self.value(n.y);
                }
            }
            BackwardStep::NormInput { unit, z, .. } => {
                self.gradient(lowered.units[unit].output());
                self.value(z);
                self.gradient(z);
            }
            BackwardStep::Copy { from, to, .. } => {
                self.gradient(from);
                self.gradient(to);
            }
            BackwardStep::Channels { unit, input, .. } => {
                let unit = &lowered.units[unit];
                self.gradient(unit.output());
                self.gradient(unit.inputs()[input]);
            }
            BackwardStep::Unit { unit, .. } => {
                let unit = &lowered.units[unit];
                self.gradient(unit.output());
                unit.inputs().into_iter().for_each(|t| self.gradient(t));
            }
            BackwardStep::Load { .. } | BackwardStep::Linear { .. } => {}
        }
    }
}

/// Notes in every run of the forward pass what it touches.
pub(super) fn note_forward(stages: &mut [Stage], lowered: &Lowered) {
    let unit = |step: &ForwardStep| match step {
        ForwardStep::Unit(unit) => Some(*unit),
        _ => None,
    };
    let touch = |touched: &mut Touched, step: &ForwardStep| touched.forward(lowered, *step);
    note(stages.iter_mut().flat_map(|stage| &mut stage.runs), lowered, unit, touch);
}

/// The same for the backward pass.
pub(super) fn note_backward(stages: &mut [BackwardStage], lowered: &Lowered) {
    let unit = |step: &BackwardStep| match step {
        BackwardStep::Conv { unit, .. } => Some(*unit),
        _ => None,
    };
    let touch = |touched: &mut Touched, step: &BackwardStep| touched.backward(lowered, step);
    note(stages.iter_mut().flat_map(|stage| &mut stage.runs), lowered, unit, touch);
}

/// `unit` is the unit of a step that may be a convolution.
fn note<'a, S: 'a>(
    runs: impl Iterator<Item = &'a mut Run<S>>,
    lowered: &Lowered,
    unit: impl Fn(&S) -> Option<usize>,
    touch: impl Fn(&mut Touched, &S),
) {
    for (steps, touched) in runs.map(Run::steps) {
        let convs = steps.iter().filter_map(&unit).filter_map(|unit| match &lowered.units[unit] {
            Unit::Conv(c) => Some(c.at_a_time),
            _ => None,
        });
        if let Some(images) = convs.max() {
            steps.iter().for_each(|step| touch(touched, step));
            *touched = std::mem::take(touched).bounded(lowered, images);
        }
    }
}
