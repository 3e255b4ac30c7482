//! Which feature map of the student goes with which of the teacher.
use std::collections::BTreeMap;

use candle_core::Tensor;
use dkd_kernels::tensor::adaptive_avg_pool2d;

use crate::error::{Error, Result, listed};
use crate::{Batch, RequiredTaps, Setup};

/// Feature maps of the two networks that a loss compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The student's tap.
    pub student: String,
    /// Its shape without the batch: [channels, height, width], or `[n]`.
    pub student_dims: Vec<usize>,
    /// The teacher's tap.
    pub teacher: String,
    /// Its shape.
    pub teacher_dims: Vec<usize>,
}

impl Pair {
    /// Height and width of both maps.
    pub fn sizes(&self) -> ((usize, usize), (usize, usize)) {
        let size = |dims: &[usize]| match *dims {
            [_, height, width] => (height, width),
            _ => (1, 1),
        };
        (size(&self.student_dims), size(&self.teacher_dims))
    }

    /// Elements of both maps of one image.
    pub fn elements(&self) -> usize {
        self.student_dims.iter().product::<usize>() + self.teacher_dims.iter().product::<usize>()
    }

    /// Channels of the student's map, and of the teacher's.
    pub fn channels(&self) -> [usize; 2] {
        [&self.student_dims, &self.teacher_dims].map(|dims| dims.first().copied().unwrap_or(0))
    }

    /// What is read of `pairs`.
    pub fn taps<'a>(pairs: impl IntoIterator<Item = &'a Self>) -> RequiredTaps {
        let mut taps = RequiredTaps::default();
        for pair in pairs {
            taps.student.push(pair.student.clone());
            taps.teacher.push(pair.teacher.clone());
        }
        taps
    }

    /// Whether heights and widths agree.
    pub fn same_size(&self) -> bool {
        self.student_dims.get(1..) == self.teacher_dims.get(1..)
    }

    /// The two maps of a batch, the teacher's as a constant; `method` is who asks.
    ///
    /// # Errors
    /// [`Error::MissingTap`], [`Error::MissingTeacher`]; [`Error::Shape`] if one is not as it was announced, or the batches differ.
    pub fn maps(&self, batch: &Batch, method: &str) -> Result<(Tensor, Tensor)> {
        let student = batch.view(0)?.student.tap("student", &self.student)?;
        let teacher = batch.teacher_outputs(method, 0)?.tap("teacher", &self.teacher)?.detach();
        let rows = student.dim(0)?;
        for (side, name, map, dims) in [
            ("student", &self.student, student, &self.student_dims),
            ("teacher", &self.teacher, &teacher, &self.teacher_dims),
        ] {
            if rows == 0 || map.dim(0)? != rows || map.dims()[1..] != dims[..] {
                let expected: Vec<usize> = std::iter::once(rows.max(1)).chain(dims.iter().copied()).collect();
                return Err(Error::Shape {
                    tensor: format!("{side}'s `{name}`"),
                    expected: format!("{expected:?}"),
                    found: map.dims().to_vec(),
                });
            }
        }
        // Networks hand out views whose channels lie innermost; candle is slow on those.
        Ok((student.contiguous()?, teacher.contiguous()?))
    }
}

/// The tap `name` of both networks.
///
/// # Errors
/// [`Error::MissingTap`].
pub(crate) fn stage(setup: &Setup, name: &str) -> Result<Pair> {
    let dims = |side, taps: &BTreeMap<String, Vec<usize>>| {
        taps.get(name).cloned().ok_or_else(|| Error::MissingTap {
            side,
            name: name.into(),
            available: listed(taps.keys().map(String::as_str)),
        })
    };
    Ok(Pair {
        student: name.to_owned(),
        student_dims: dims("student", setup.student_taps)?,
        teacher: name.to_owned(),
        teacher_dims: dims("teacher", setup.teacher_taps)?,
    })
}

/// The taps `kind.1`, `kind.2`, … as long as both networks have them: the outputs of their stages, the stem (number 0)
/// left out, as the reference pairs them. Further stages of the longer network are not used.
///
/// # Errors
/// [`Error::MissingTap`] when there is not even the first.
pub(crate) fn pairs(setup: &Setup, kind: &str) -> Result<Vec<Pair>> {
    let mut pairs = vec![stage(setup, &format!("{kind}.1"))?];
    for number in 2.. {
        match stage(setup, &format!("{kind}.{number}")) {
            Ok(pair) => pairs.push(pair),
            Err(_) => break,
        }
    }
    Ok(pairs)
}

/// Names and shapes of `kind.1`, `kind.2`, …; in a network that has no `preact_feats`, of its `feats`.
fn stages<'a>(
    side: &'static str,
    taps: &'a BTreeMap<String, Vec<usize>>,
    kind: &str,
) -> Result<Vec<(&'a String, &'a Vec<usize>)>> {
    let of = |kind: &str| -> Vec<_> {
        (1..).map_while(|number| taps.get_key_value(&format!("{kind}.{number}"))).collect()
    };
    let found = [of(kind), of("feats")].into_iter().find(|list| !list.is_empty());
    found.ok_or_else(|| Error::MissingTap {
        side,
        name: format!("{kind}.1"),
        available: listed(taps.keys().map(String::as_str)),
    })
}

/// The stages of both networks, of the kinds `feats` (after their last ReLU) or `preact_feats` (before it; `feats` in a
/// network without), paired from the last one backwards.
///
/// # Errors
/// [`Error::MissingTap`].
pub(crate) fn aligned_at_the_end(setup: &Setup, student: &str, teacher: &str) -> Result<Vec<Pair>> {
    let students = stages("student", setup.student_taps, student)?;
    let teachers = stages("teacher", setup.teacher_taps, teacher)?;
    let mut pairs: Vec<Pair> = students
        .into_iter()
        .rev()
        .zip(teachers.into_iter().rev())
        .map(|((student, student_dims), (teacher, teacher_dims))| Pair {
            student: student.clone(),
            student_dims: student_dims.clone(),
            teacher: teacher.clone(),
            teacher_dims: teacher_dims.clone(),
        })
        .collect();
    pairs.reverse();
    Ok(pairs)
}

/// Both maps [B, C, H, W], the larger one averaged down to the smaller; in each direction, where neither is smaller in both. Averages are taken
/// in the CPU's memory alone; maps of equal sizes stay as they are, wherever that is.
pub(crate) fn same_size(student: &Tensor, teacher: &Tensor) -> Result<(Tensor, Tensor)> {
    let ((_, _, sh, sw), (_, _, th, tw)) = (student.dims4()?, teacher.dims4()?);
    let size = (sh.min(th), sw.min(tw));
    let averaged = |map: &Tensor, own: (usize, usize)| -> Result<Tensor> {
        Ok(if own == size { map.clone() } else { adaptive_avg_pool2d(map, size)? })
    };
    Ok((averaged(student, (sh, sw))?, averaged(teacher, (th, tw))?))
}

/// The last stage of each network.
///
/// # Errors
/// [`Error::MissingTap`].
pub(crate) fn last_stages(setup: &Setup) -> Result<Pair> {
    let mut pairs = aligned_at_the_end(setup, "feats", "feats")?;
    Ok(pairs.pop().expect("there is a stage, or an error"))
}

/// The batch that two features share.
///
/// # Errors
/// [`Error::Shape`] unless it is the same and not empty.
pub(crate) fn check_batch(student: &Tensor, teacher: &Tensor) -> Result<usize> {
    let rows = |x: &Tensor| if x.rank() >= 2 { x.dims()[0] } else { 0 };
    for (tensor, x) in [("student features", student), ("teacher features", teacher)] {
        if rows(x) == 0 || rows(x) != rows(student) {
            let expected = format!("[{}, …], one row or map per sample", rows(student).max(1));
            return Err(Error::Shape { tensor: tensor.to_owned(), expected, found: x.dims().to_vec() });
        }
    }
    Ok(rows(student))
}

/// Fails unless both are maps [B, C, H, W] of the same batch.
///
/// # Errors
/// [`Error::Shape`].
pub(crate) fn check_maps(student: &Tensor, teacher: &Tensor) -> Result<()> {
    for (tensor, x) in [("student map", student), ("teacher map", teacher)] {
        if x.rank() != 4 || x.elem_count() == 0 || x.dims()[0] != student.dims()[0] {
            let expected = "[batch, channels, height, width], the same batch for both".to_owned();
            return Err(Error::Shape { tensor: tensor.to_owned(), expected, found: x.dims().to_vec() });
        }
    }
    Ok(())
}

/// Fails unless both are maps [B, C, H, W] of the same shape.
///
/// # Errors
/// [`Error::Shape`].
pub(crate) fn check_equal_maps(student: &Tensor, teacher: &Tensor) -> Result<()> {
    check_maps(student, teacher)?;
    if student.dims() == teacher.dims() {
        return Ok(());
    }
    let expected = format!("{:?} as the student's", student.dims());
    Err(Error::Shape { tensor: "teacher map".to_owned(), expected, found: teacher.dims().to_vec() })
}

/// Fails unless `values` has one value for each channel of `map`.
///
/// # Errors
/// [`Error::Shape`] for the tensor `name`.
pub(crate) fn check_per_channel(name: &str, values: &Tensor, map: &Tensor) -> Result<()> {
    let channels = map.dim(1)?;
    if values.dims() == [channels] {
        return Ok(());
    }
    let expected = format!("[{channels}], one per channel");
    Err(Error::Shape { tensor: name.to_owned(), expected, found: values.dims().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn maps_of_equal_sizes_are_not_touched() {
        let map = |size: (usize, usize)| {
            Tensor::arange(0f32, (2 * size.0 * size.1) as f32, &Device::Cpu)
                .and_then(|t| t.reshape((1, 2, size.0, size.1)))
                .unwrap()
        };
        let (small, large) = (map((2, 2)), map((4, 4)));
        let (a, b) = same_size(&small, &map((2, 2))).unwrap();
        assert_eq!(a.id(), small.id());
        assert_eq!(b.dims(), [1, 2, 2, 2]);
        let (a, b) = same_size(&large, &small).unwrap();
        assert_eq!(b.id(), small.id());
        let means = [2.5f32, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5];
        assert_eq!(a.flatten_all().unwrap().to_vec1::<f32>().unwrap(), means);
        let (a, b) = same_size(&map((4, 2)), &map((2, 4))).unwrap();
        assert_eq!((a.dims(), b.dims()), (&[1, 2, 2, 2][..], &[1, 2, 2, 2][..]));
    }
}
