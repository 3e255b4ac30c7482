//! The emulation keeps its promises.

use super::*;
use crate::gpu::convolution::Arithmetic;
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

#[test]
fn gradients_of_a_convolution_are_those_of_its_output() {
    let c = Convolution {
        images: 2,
        input: (5, 4, 4),
        output: (3, 2, 6),
        kernel: (3, 3),
        stride: (2, 2),
        padding: (1, 1),
        groups: 2,
        arithmetic: Arithmetic::F32,
    };
    for machine in machines() {
        let [nx, nw, ny] = c.lengths();
        let (x, w, g) = (numbers(nx, 1), numbers(nw, 2), numbers(ny, 3));
        // <conv(x, w), g> is linear in both, so each gradient times its own operand gives the same number.
        let [dx, dw, dg] = [&x, &w, &g].map(|v| upload(&machine, v, Element::F32));
        let [y, gx, gw] = [ny, nx, nw].map(|n| upload(&machine, &vec![0.0; n], Element::F32));
        c.run(&machine, Pass::Forward, [&dx, &dw, &y], false).unwrap();
        c.run(&machine, Pass::InputGradient, [&gx, &dw, &dg], false).unwrap();
        c.run(&machine, Pass::WeightGradient, [&dx, &gw, &dg], true).unwrap();
        let dot =
            |a: &[f32], b: &View| -> f32 { a.iter().zip(download(&machine, b)).map(|(a, b)| a * b).sum() };
        let want = dot(&g, &y);
        assert_close(&[dot(&x, &gx), dot(&w, &gw)], &[want, want], 1e-4);
        assert!(want.abs() > 1e-3);
        assert!(c.run(&machine, Pass::Forward, [&dx, &y, &dw], false).is_err());
    }
}
