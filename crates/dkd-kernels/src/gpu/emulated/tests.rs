//! The emulation keeps its promises.

use super::*;
use crate::gpu::convolution::{Arithmetic, Epilogue, Fused};
use crate::gpu::memory::Element;
use crate::gpu::pointwise::{Pointwise, pointwise};
use crate::gpu::testing::{assert_close, download, machines, numbers, upload};

#[test]
fn recorded_work_is_done_when_it_is_replayed() {
    for machine in machines() {
        let [x, y] = [[1.0, -2.0], [10.0, 20.0]].map(|v| upload(&machine, &v, Element::F32));
        let record = machine.record(&mut || {
            pointwise(&machine, Pointwise::Relu, &x, None, &y, true)?;
            machine.copy(&y, &x)
        });
        let record = record.unwrap();
        assert_eq!(download(&machine, &y), [10.0, 20.0]);
        record.replay().unwrap();
        assert_eq!(download(&machine, &x), [11.0, 20.0]);
        record.replay().unwrap();
        assert_eq!(download(&machine, &x), [22.0, 40.0]);
    }
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    for machine in machines() {
        let x = upload(&machine, &[1.0], Element::F32);
        let error = machine.record(&mut || machine.write(&x, &[0; 4])).unwrap_err();
        assert!(matches!(error, GpuError::Recording("write")), "{error}");
        machine.write(&x, &[0; 4]).unwrap();
        assert!(machine.record(&mut || machine.alloc(1).map(|_| ())).is_err());
    }
}

/// A small one with strides and padding.
fn convolution(groups: usize) -> Convolution {
    Convolution {
        images: 2,
        input: (5, 4, 4),
        output: (3, 2, 6),
        kernel: (3, 3),
        stride: (2, 2),
        padding: (1, 1),
        groups,
        arithmetic: Arithmetic::F32,
    }
}

#[test]
fn gradients_of_a_convolution_are_those_of_its_output() {
    let c = convolution(2);
    for machine in machines() {
        let [nx, nw, ny] = c.lengths();
        let (x, w, g) = (numbers(nx, 1), numbers(nw, 2), numbers(ny, 3));
        // <conv(x, w), g> is linear in both, so each gradient times its own operand gives the same number.
        let [dx, dw, dg] = [&x, &w, &g].map(|v| upload(&machine, v, Element::F32));
        let [y, gx, gw] = [ny, nx, nw].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
        c.run(&machine, Pass::Forward, [&dx, &dw, &y], false).unwrap();
        c.run(&machine, Pass::InputGradient, [&gx, &dw, &dg], true).unwrap();
        c.run(&machine, Pass::WeightGradient, [&dx, &gw, &dg], false).unwrap();
        assert!(
            c.run(&machine, Pass::WeightGradient, [&dx, &gw, &dg], true).is_err(),
            "libraries are not asked to"
        );
        let dot =
            |a: &[f32], b: &View| -> f32 { a.iter().zip(download(&machine, b)).map(|(a, b)| a * b).sum() };
        let want = dot(&g, &y);
        assert_close(&[dot(&x, &gx), dot(&w, &gw)], &[want, want], 1e-4);
        assert!(want.abs() > 1e-3);
        assert!(c.run(&machine, Pass::Forward, [&dx, &y, &dw], false).is_err());
    }
}

#[test]
fn a_convolution_with_what_follows_is_both_apart() {
    let c = convolution(1);
    for machine in machines() {
        let [nx, nw, ny] = c.lengths();
        let [x, w, z, scale, shift, addend] = [(nx, 1), (nw, 2), (ny, 0), (6, 4), (6, 5), (ny, 6)]
            .map(|(n, seed)| upload(&machine, &numbers(n, seed), Element::F32));
        c.run(&machine, Pass::Forward, [&x, &w, &z], false).unwrap();
        let [sums, scales, shifts, added] = [&z, &scale, &shift, &addend].map(|v| download(&machine, v));
        let y = upload(&machine, &vec![f32::NAN; ny], Element::F32);
        for (is_added, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let want: Vec<f32> = (0..ny)
                .map(|i| {
                    let y = sums[i] * scales[i % 6] + shifts[i % 6] + if is_added { added[i] } else { 0.0 };
                    if relu { y.max(0.0) } else { y }
                })
                .collect();
            let fused = Fused {
                operands: [&x, &w, &y],
                scale: &scale,
                shift: &shift,
                addend: is_added.then_some(&addend),
            };
            c.run_fused(&machine, &fused, relu).unwrap();
            assert_close(&download(&machine, &y), &want, 1e-5);
        }
        let fused = Fused { operands: [&x, &w, &y], scale: &scale, shift: &shift, addend: None };
        let message = |fused: &Fused<'_>| c.run_fused(&machine, fused, true).unwrap_err().to_string();
        assert!(message(&Fused { scale: &addend, ..fused }).contains("the scale"));
        assert!(message(&Fused { addend: Some(&x), ..fused }).contains("the addend"));
        assert!(message(&Fused { addend: Some(&y), ..fused }).contains("overlaps"));
        assert!(message(&Fused { operands: [&x, &y, &w], ..fused }).contains("the weights"));
        // What is no number is not rectified away.
        let nan = upload(&machine, &[f32::NAN; 6], Element::F32);
        c.run_fused(&machine, &Fused { scale: &nan, ..fused }, true).unwrap();
        assert!(download(&machine, &y).iter().all(|v| v.is_nan()));
        assert!(
            !machine
                .clone()
                .without_library()
                .prepare_fused(&c, Epilogue { addend: false, relu: true })
                .unwrap()
        );
    }
}

/// Adds `x` to `y`.
fn add(machine: &Emulated, x: &View, y: &View) -> Result<()> {
    pointwise(machine, Pointwise::Add, x, Some(y), y, false)
}

#[test]
fn branches_are_between_what_is_before_and_after() {
    for machine in machines() {
        let [x, all] = [[1.0, 2.0], [0.0, 0.0]].map(|v| upload(&machine, &v, Element::F32));
        let own: Vec<View> = (0..5).map(|i| upload(&machine, &[i as f32; 2], Element::F32)).collect();
        let work = || {
            add(&machine, &x, &x)?;
            machine.branches(own.len(), &mut |i| {
                add(&machine, &x, &own[i])?;
                if i % 2 == 0 { add(&machine, &x, &own[i]) } else { Ok(()) }
            })?;
            own.iter().try_for_each(|y| add(&machine, y, &all))
        };
        work().unwrap();
        let (mut x0, mut expected, mut sum) = (2.0, [2.0 * 2.0, 3.0, 6.0, 5.0, 8.0], 26.0);
        assert_eq!(download(&machine, &all)[0], sum);
        machine.prepare_branches(own.len()).unwrap();
        let record = machine.record(&mut || work()).unwrap();
        assert_eq!(download(&machine, &all)[0], sum);
        for _ in 0..3 {
            record.replay().unwrap();
            x0 *= 2.0;
            for (i, e) in expected.iter_mut().enumerate() {
                *e += x0 * if i % 2 == 0 { 2.0 } else { 1.0 };
                sum += *e;
            }
            let got: Vec<f32> = own.iter().map(|y| download(&machine, y)[0]).collect();
            assert_eq!(got, expected);
            assert_eq!(download(&machine, &all)[0], sum);
        }
    }
}

#[test]
fn branches_that_depend_on_each_other_are_found() {
    let [forwards, backwards] = &machines()[..] else { return };
    // The second branch needs the first one's last call, then its first one; at last both use the same place on their way.
    for kind in 0..3 {
        let results = [forwards, backwards].map(|machine| {
            let [one, a, b, way] = [1.0, 0.0, 0.0, 0.0].map(|v| upload(machine, &[v], Element::F32));
            machine.prepare_branches(2).unwrap();
            let record = machine.record(&mut || {
                machine.clear(&a)?;
                machine.branches(2, &mut |i| match (kind, i) {
                    (0, 0) => machine.clear(&way).and_then(|()| machine.copy(&one, &a)),
                    (1, 0) => machine.copy(&one, &a).and_then(|()| machine.clear(&way)),
                    (0, _) => machine.copy(&a, &b),
                    (1, _) => machine.clear(&b).and_then(|()| machine.copy(&a, &b)),
                    (_, 0) => machine.copy(&one, &way).and_then(|()| machine.copy(&way, &a)),
                    _ => machine.clear(&way).and_then(|()| machine.copy(&way, &b)),
                })
            });
            let record = record.unwrap();
            let look = |_| match record.replay() {
                Ok(()) => Ok([&a, &b].map(|v| download(machine, v)[0])),
                Err(e) => Err(e.to_string()),
            };
            [0, 1].map(look)
        });
        // Where kernels are looked at, that tells it.
        let told = results.iter().flatten().all(|looked| looked.is_err());
        assert!(told || results[0] != results[1], "{kind}: {results:?}");
    }
}

#[test]
fn branches_within_branches_or_unprepared_are_refused() {
    for machine in machines() {
        let inner = || machine.branches(2, &mut |_| Ok(()));
        let nested = || machine.branches(2, &mut |_| inner());
        let wrong = |done: Result<()>| matches!(done, Err(GpuError::Branches(_)));
        assert!(wrong(nested()) && inner().is_ok());
        let recorded = |work: &dyn Fn() -> Result<()>| machine.record(&mut || work()).map(|_| ());
        assert!(wrong(recorded(&inner)));
        machine.prepare_branches(2).unwrap();
        assert!(recorded(&inner).is_ok() && wrong(recorded(&nested)) && recorded(&inner).is_ok());
        assert!(wrong(recorded(&|| machine.branches(3, &mut |_| Ok(())))));
        assert!(machine.record(&mut || machine.prepare_branches(1)).is_err());
    }
}

#[test]
fn what_is_called_aside_is_done_before_it_is_rejoined() {
    for machine in machines() {
        let [x, a, b, c, way] = [1.0, 0.0, 0.0, 0.0, 0.0].map(|v| upload(&machine, &[v], Element::F32));
        machine.prepare_branches(2).unwrap();
        let work = || {
            let first = machine.aside(&mut || machine.copy(&x, &way))?;
            add(&machine, &x, &b)?;
            machine.aside(&mut || add(&machine, &b, &a).and_then(|()| machine.copy(&a, &c)))?;
            machine.rejoin(first)?;
            add(&machine, &way, &x)?;
            machine.rejoin(usize::MAX)?;
            add(&machine, &c, &b)
        };
        work().unwrap();
        let read = || [&x, &a, &b, &c].map(|v| download(&machine, v)[0]);
        let (mut x0, mut a0, mut b0) = (2.0, 1.0, 2.0);
        assert_eq!(read(), [x0, a0, b0, a0]);
        for alone in [false, true] {
            let record = machine.record(&mut || machine.branches(1, &mut |_| work()));
            let within =
                machine.record(&mut || machine.branches(2, &mut |i| if i == 0 { work() } else { Ok(()) }));
            let record = if alone { within.unwrap() } else { record.unwrap() };
            for _ in 0..3 {
                record.replay().unwrap();
                b0 += x0;
                a0 += b0;
                x0 += x0;
                b0 += a0;
                assert_eq!(read(), [x0, a0, b0, a0]);
            }
        }
    }
}

#[test]
fn what_is_called_aside_and_disturbed_is_found() {
    let [forwards, backwards] = &machines()[..] else { return };
    // What is read aside is written meanwhile; what is written aside is read.
    for kind in 0..2 {
        let results = [forwards, backwards].map(|machine| {
            let [x, a, b] = [1.0, 0.0, 0.0].map(|v| upload(machine, &[v], Element::F32));
            machine.prepare_branches(2).unwrap();
            let record = machine.record(&mut || {
                machine.aside(&mut || machine.copy(&x, &a))?;
                if kind == 0 { machine.clear(&x) } else { machine.copy(&a, &b) }
            });
            record
                .unwrap()
                .replay()
                .map(|()| [&a, &b].map(|v| download(machine, v)[0]))
                .map_err(|e| e.to_string())
        });
        // Where accesses are looked at, that tells it.
        let told = results.iter().all(|looked| looked.is_err());
        assert!(told || results[0] != results[1], "{kind}: {results:?}");
    }
}

#[test]
fn an_error_in_a_branch_leaves_the_machine_as_it_was() {
    for machine in machines() {
        let [x, y] = [1.0, 0.0].map(|v| upload(&machine, &[v], Element::F32));
        machine.prepare_branches(3).unwrap();
        let mut begun = 0;
        let failed = machine.record(&mut || {
            machine.branches(3, &mut |i| {
                begun += 1;
                machine.copy(&x, &y)?;
                if i == 1 { machine.wait() } else { Ok(()) }
            })
        });
        assert!(matches!(failed, Err(GpuError::Recording("wait"))) && begun == 2);
        // Also if whoever records goes on.
        let record = machine.record(&mut || {
            let _ = machine.branches(2, &mut |i| if i == 0 { machine.copy(&x, &y) } else { machine.wait() });
            add(&machine, &y, &x)
        });
        record.unwrap().replay().unwrap();
        assert_eq!([&x, &y].map(|v| download(&machine, v)[0]), [2.0, 1.0]);
        let own: std::result::Result<(), Own> =
            crate::gpu::branches(&machine, 2, &mut |i| if i == 1 { Err(Own::Else) } else { Ok(()) });
        assert!(matches!(own, Err(Own::Else)));
    }
}

/// Errors of work.
#[derive(Debug, thiserror::Error)]
enum Own {
    #[error("something else")]
    Else,
    #[error("the machine's")]
    Machine,
}

impl From<GpuError> for Own {
    fn from(_: GpuError) -> Self {
        Self::Machine
    }
}

#[test]
fn what_is_beside_is_done_by_the_end() {
    for machine in machines() {
        let [x, y, z] = [[1.0, 2.0], [10.0, 20.0], [0.0, 0.0]].map(|v| upload(&machine, &v, Element::F32));
        let own: Vec<View> = (0..3).map(|i| upload(&machine, &[i as f32; 2], Element::F32)).collect();
        let work = || {
            add(&machine, &x, &x)?;
            machine.beside(&mut || {
                add(&machine, &x, &y)?;
                // No place for anything but calls.
                machine.aside(&mut || add(&machine, &x, &y))?;
                machine.beside(&mut || add(&machine, &x, &y))
            })?;
            add(&machine, &x, &z)?;
            let number = machine.aside(&mut || add(&machine, &x, &own[0]))?;
            add(&machine, &x, &z)?;
            machine.rejoin(number)?;
            machine.branches(2, &mut |i| add(&machine, &x, &own[1 + i]))?;
            // There is one already.
            machine.beside(&mut || add(&machine, &z, &own[0]))
        };
        machine.prepare_branches(3).unwrap();
        let record = machine.record(&mut || work()).unwrap();
        let (mut x0, mut y0, mut z0, mut others) = (1.0, 10.0, 0.0, [0.0, 1.0, 2.0]);
        for _ in 0..4 {
            record.replay().unwrap();
            x0 *= 2.0;
            y0 += 3.0 * x0;
            z0 += 2.0 * x0;
            others.iter_mut().for_each(|o| *o += x0);
            others[0] += z0;
            let got: Vec<f32> = own.iter().map(|view| download(&machine, view)[0]).collect();
            assert_eq!((download(&machine, &y)[0], download(&machine, &z)[0]), (y0, z0));
            assert_eq!(got, others);
        }
    }
}

#[test]
fn what_is_beside_and_disturbs_is_found() {
    let Some(mut sanitized) = machines().into_iter().next() else { return };
    sanitized = Emulated::of(&source::kernels(), sanitized.inner.backwards, true).unwrap();
    let [x, y] = [[1.0, 2.0], [10.0, 20.0]].map(|v| upload(&sanitized, &v, Element::F32));
    sanitized.prepare_branches(3).unwrap();
    let record = sanitized.record(&mut || {
        sanitized.beside(&mut || add(&sanitized, &x, &y))?;
        add(&sanitized, &y, &y)
    });
    let message = record.unwrap().replay().unwrap_err().to_string();
    assert!(message.contains("nothing orders them"), "{message}");
}
