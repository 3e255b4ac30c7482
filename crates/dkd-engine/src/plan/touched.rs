//! What the steps of an image read and write.
//!
//! The convolutions of the image before it fetch this meanwhile ([`dkd_kernels::ahead`]); and what is kept in bf16 is expanded before
//! the steps and rounded after them.

use super::backward::{BackwardStage, BackwardStep, DzSource};
use super::forward::{ForwardStep, Run, Stage};
use super::lower::Lowered;
use super::unit::{Addend, TensorId, Unit};

/// Elements that a run may touch for the next image's to be fetched: with this image's they must stay in a second-level cache of
/// 2 MiB for the most part. (Measured: 12 % gained for ShuffleV1, whose largest run touches 1 MiB; ResNet50 with runs of several
/// MiB lost.)
const MOST_ELEMENTS: usize = 320 * 1024;

/// The value of a tensor, or its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Value(TensorId),
    Gradient(TensorId),
}

/// How a run uses a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    pub place: Place,
    /// Whether the first step that uses it reads what was there before the run.
    pub read: bool,
    /// Whether any step writes it.
    pub written: bool,
}

/// The places that a run uses, each once, in the order of their first use.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Touched {
    pub places: Vec<Touch>,
    /// Images that its steps take at a time; none if they take all of a group.
    pub at_a_time: Option<usize>,
    /// Whether a convolution in the run leaves time to fetch the next image's places, and they are not too many.
    pub ahead: bool,
}

impl Touched {
    fn touch(&mut self, place: Place, read: bool, written: bool) {
        match self.places.iter_mut().find(|touch| touch.place == place) {
            Some(touch) => touch.written |= written,
            None => self.places.push(Touch { place, read, written }),
        }
    }

    /// A value that is read: itself, or what it is made from again.
    fn reads(&mut self, lowered: &Lowered, t: TensorId) {
        lowered.stored(t).into_iter().for_each(|t| self.touch(Place::Value(t), true, false));
    }

    fn reads_gradient(&mut self, t: TensorId) {
        self.touch(Place::Gradient(t), true, false);
    }

    /// A gradient that is written, or added to.
    fn makes_gradient(&mut self, t: TensorId, accumulate: bool) {
        self.touch(Place::Gradient(t), accumulate, true);
    }

    fn forward(&mut self, lowered: &Lowered, step: ForwardStep) {
        match step {
            ForwardStep::Load => self.touch(Place::Value(lowered.input), false, true),
            ForwardStep::Moments(bn) => self.reads(lowered, lowered.bns[bn].z),
            ForwardStep::Unit(index) => {
                let unit = &lowered.units[index];
                unit.inputs().into_iter().for_each(|t| self.reads(lowered, t));
                self.touch(Place::Value(unit.output()), false, true);
            }
        }
    }

    fn backward(&mut self, lowered: &Lowered, step: &BackwardStep) {
        match *step {
            BackwardStep::Load { boundary, accumulate } => {
                self.makes_gradient(lowered.boundaries[boundary], accumulate);
            }
            BackwardStep::Copy { from, to, accumulate } => {
                self.reads_gradient(from);
                self.makes_gradient(to, accumulate);
            }
            BackwardStep::Complete { unit, residual } => {
                let Unit::Norm(n) = &lowered.units[unit] else { return };
                self.makes_gradient(n.y, true);
                residual.into_iter().for_each(|t| self.reads_gradient(t));
                self.reads(lowered, n.z);
                if let Addend::Normalized(t, _) = n.addend {
                    self.reads(lowered, t);
                }
                if n.relu && lowered.tensors[n.y].recomputed_by.is_none() {
                    self.reads(lowered, n.y);
                }
            }
            BackwardStep::NormInput { unit, z, accumulate, .. } => {
                self.reads_gradient(lowered.units[unit].output());
                self.reads(lowered, z);
                self.makes_gradient(z, accumulate);
            }
            BackwardStep::Conv { unit, source, input, .. } => {
                let Unit::Conv(c) = &lowered.units[unit] else { return };
                match source {
                    DzSource::Gradient => {
                        self.reads_gradient(c.y);
                        if c.relu {
                            self.reads(lowered, c.y);
                        }
                    }
                    DzSource::Norm { unit, .. } => {
                        self.reads_gradient(lowered.units[unit].output());
                        self.reads(lowered, c.y);
                    }
                }
                self.reads(lowered, c.x);
                if let Some(accumulate) = input {
                    self.makes_gradient(c.x, accumulate);
                }
            }
            BackwardStep::Linear { unit, input } => {
                let Unit::Linear(l) = &lowered.units[unit] else { return };
                self.makes_gradient(l.y, true);
                if l.relu {
                    self.reads(lowered, l.y);
                }
                // The weights' gradient, at the end of the stage.
                self.reads(lowered, l.x);
                if let Some(accumulate) = input {
                    self.makes_gradient(l.x, accumulate);
                }
            }
            BackwardStep::Channels { unit, input, accumulate } => {
                let Unit::Channels(c) = &lowered.units[unit] else { return };
                self.reads_gradient(c.y);
                if c.relu {
                    self.reads(lowered, c.y);
                }
                self.makes_gradient(c.inputs[input], accumulate);
            }
            BackwardStep::Unit { unit, accumulate } => {
                let unit = &lowered.units[unit];
                let y = unit.output();
                self.reads_gradient(y);
                if matches!(unit, Unit::Relu { .. } | Unit::Relu6 { .. }) {
                    self.reads(lowered, y);
                }
                unit.inputs().into_iter().for_each(|t| self.makes_gradient(t, accumulate));
            }
        }
    }

    /// Elements of one image.
    fn elements(&self, lowered: &Lowered) -> usize {
        let of = |touch: &Touch| match touch.place {
            Place::Value(t) => lowered.tensors[t].map.elements(),
            Place::Gradient(t) => lowered.tensors[t].gradient_map().elements(),
        };
        self.places.iter().map(of).sum()
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
    for run in runs {
        let one = matches!(run, Run::Images { .. }).then_some(1);
        let (steps, touched) = run.steps_mut();
        steps.iter().for_each(|step| touch(touched, step));
        let convs = steps.iter().filter_map(&unit).filter_map(|unit| match &lowered.units[unit] {
            Unit::Conv(c) => Some(c.at_a_time),
            _ => None,
        });
        let conv = convs.max();
        touched.at_a_time = one.or(conv);
        let elements = touched.elements(lowered);
        touched.ahead = conv.is_some_and(|images| images * elements <= MOST_ELEMENTS);
    }
}
