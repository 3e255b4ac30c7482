//! Every instruction set against loops over channels.

use super::{ChannelAffine, ChannelMap};
use crate::rng::{Purpose, Stream};
use crate::{Isa, Map};

/// An image with random channels and zeros between and around them.
fn image(map: Map, salt: u32) -> Vec<f32> {
    let s = Stream::new(5, Purpose::Other, salt, 0);
    let mut x = vec![0.0; map.elements()];
    for r in 0..map.height {
        for c in 0..map.width {
            let at = map.at(r as isize, c as isize);
            for k in 0..map.channels {
                x[at + k] = s.uniform(((r * map.width + c) * map.channels + k) as u64) - 0.5;
            }
        }
    }
    x
}

/// The interior's channels, and whether everything else is 0.
fn channels(x: &[f32], map: Map) -> (Vec<f32>, bool) {
    let mut all = Vec::new();
    for r in 0..map.height {
        for c in 0..map.width {
            all.extend_from_slice(&x[map.at(r as isize, c as isize)..][..map.channels]);
        }
    }
    let inside = all.iter().filter(|v| **v != 0.0).count();
    let clean = x.iter().filter(|v| **v != 0.0).count() == inside;
    (all, clean)
}

/// For every channel where it comes from.
type From = Vec<Option<(usize, usize)>>;

/// Maps as networks have them, and random ones.
fn maps() -> Vec<(Vec<usize>, From)> {
    let concat = |n: &[usize]| -> From {
        n.iter().enumerate().flat_map(|(s, n)| (0..*n).map(move |c| Some((s, c)))).collect()
    };
    let shuffle = |all: From, g: usize| {
        let per = all.len() / g;
        (0..all.len()).map(|o| all[o % g * per + o / g]).collect::<Vec<_>>()
    };
    let mut maps = vec![
        (vec![58, 58], shuffle(concat(&[58, 58]), 2)),
        (vec![54], shuffle(concat(&[54]), 3)),
        (vec![216, 24], concat(&[216, 24])),
        (vec![116], (58..116).map(|c| Some((0, c))).collect()),
        (vec![16], [vec![None; 8], concat(&[16]), vec![None; 8]].concat()),
        (vec![1, 1, 1], vec![Some((2, 0)), None, Some((0, 0))]),
    ];
    for case in 0..20 {
        let s = Stream::new(9, Purpose::Other, case, 0);
        let sources: Vec<usize> =
            (0..=s.below(0, 3)).map(|i| 1 + s.below(1 + u64::from(i), 40) as usize).collect();
        let mut from = concat(&sources);
        for i in (1..from.len()).rev() {
            from.swap(i, s.below(100 + i as u64, i as u32 + 1) as usize);
        }
        from.truncate(1 + s.below(7, from.len() as u32) as usize);
        from.insert(from.len() / 2, None);
        maps.push((sources, from));
    }
    maps
}

#[test]
fn against_loops_over_channels() {
    for (case, (sources, from)) in maps().into_iter().enumerate() {
        let map = ChannelMap::new(&sources, &from);
        let (h, w) = (2 + case % 2, 3);
        let y_map = Map::new(h, w, from.len(), case % 3);
        let x_map = |s: usize| Map::new(h, w, sources[s], (case + s) % 2);
        let x: Vec<Vec<f32>> = (0..sources.len()).map(|s| image(x_map(s), s as u32)).collect();
        let parts: Vec<Vec<f32>> = x.iter().enumerate().map(|(s, x)| channels(x, x_map(s)).0).collect();
        let value = |i: usize| {
            let (pixel, channel) = (i / from.len(), i % from.len());
            from[channel].map_or(0.0, |(s, c)| parts[s][pixel * sources[s] + c])
        };
        let start = image(y_map, 77);
        let before = channels(&start, y_map).0;
        for isa in Isa::available() {
            for (relu, accumulate) in [(false, false), (true, false), (false, true)] {
                let mut y = start.clone();
                let all = x.iter().enumerate().map(|(s, x)| (&x[..], x_map(s)));
                map.run(isa, all, &mut y, y_map, relu, accumulate);
                let want = |i: usize| {
                    let v = if relu { value(i).max(0.0) } else { value(i) };
                    if accumulate { before[i] + v } else { v }
                };
                let (got, clean) = channels(&y, y_map);
                assert!(clean, "case {case} {isa}: padding and border stay 0");
                assert_eq!(got, (0..got.len()).map(want).collect::<Vec<_>>(), "case {case} {isa}");
            }
        }
    }
}

/// The inverse is the transposed map: <map(x), dy> = Σ <x_s, inverse_s(dy)>.
#[test]
fn gradients_are_those_of_the_transposed_map() {
    for (case, (sources, from)) in maps().into_iter().enumerate() {
        let map = ChannelMap::new(&sources, &from);
        let y_map = Map::new(2, 2, from.len(), 1);
        let (dy, output) = (image(y_map, 1), image(y_map, 2));
        let (dy_part, output_part) = (channels(&dy, y_map).0, channels(&output, y_map).0);
        for (source, n) in sources.iter().enumerate() {
            let back = map.inverse(source);
            let x_map = Map::new(2, 2, *n, 0);
            let start = image(x_map, 3);
            let before = channels(&start, x_map).0;
            for isa in Isa::available() {
                for (masked, accumulate) in [(false, false), (false, true), (true, false), (true, true)] {
                    let mut dx = start.clone();
                    if masked {
                        let (dy, output) = ((&dy[..], y_map), (&output[..], y_map));
                        back.run_where_positive(isa, dy, output, &mut dx, x_map, accumulate);
                    } else {
                        back.run(isa, [(&dy[..], y_map)], &mut dx, x_map, false, accumulate);
                    }
                    let want = |i: usize| {
                        let (pixel, channel) = (i / n, i % n);
                        let reader = from.iter().position(|f| *f == Some((source, channel)));
                        let at = reader.map(|o| pixel * from.len() + o);
                        let kept = at.filter(|at| !masked || output_part[*at] > 0.0);
                        kept.map_or(0.0, |at| dy_part[at]) + if accumulate { before[i] } else { 0.0 }
                    };
                    let (got, clean) = channels(&dx, x_map);
                    assert!(clean, "case {case} {isa}");
                    assert_eq!(got, (0..got.len()).map(want).collect::<Vec<_>>(), "case {case} {isa}");
                }
            }
        }
    }
}

/// Every second channel normalised, and rectified in part.
#[test]
fn channels_are_changed_on_the_way() {
    for (case, (sources, from)) in maps().into_iter().enumerate() {
        let map = ChannelMap::new(&sources, &from);
        let mut affine = ChannelAffine::identity(from.len());
        let (scale, shift) = (|c: usize| 0.5 + c as f32, |c: usize| 0.25 - c as f32);
        (0..from.len()).step_by(2).for_each(|c| affine.set(c, scale(c), shift(c), c % 4 == 0));
        let (layouts, y_map): (Vec<Map>, _) =
            (sources.iter().map(|n| Map::new(2, 3, *n, 1)).collect(), Map::new(2, 3, from.len(), 1));
        let images: Vec<Vec<f32>> = layouts.iter().zip(0..).map(|(map, salt)| image(*map, salt)).collect();
        for isa in Isa::available() {
            for relu in [false, true] {
                let sources = || images.iter().map(Vec::as_slice).zip(layouts.iter().copied());
                let (mut plain, mut y) = (vec![0.0; y_map.elements()], vec![0.0; y_map.elements()]);
                map.run(isa, sources(), &mut plain, y_map, false, false);
                map.run_affine(isa, sources(), &affine, &mut y, y_map, relu);
                let (plain, (got, _)) = (channels(&plain, y_map).0, channels(&y, y_map));
                for (i, (x, y)) in plain.into_iter().zip(got).enumerate() {
                    let c = i % from.len();
                    let changed = if c % 2 == 0 { scale(c) * x + shift(c) } else { x };
                    let want = if relu || c % 4 == 0 { changed.max(0.0) } else { changed };
                    assert!(
                        (y - want).abs() <= 1e-5 * (1.0 + want.abs()),
                        "case {case} {isa}: {y} is not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn not_a_number_is_kept() {
    let map = ChannelMap::new(&[2], &[Some((0, 1)), Some((0, 0))]);
    let layout = Map::new(1, 1, 2, 0);
    let mut x = [0.0; 16];
    (x[0], x[1]) = (f32::NAN, -1.0);
    for isa in Isa::available() {
        let mut y = vec![0.0; 16];
        let mut affine = ChannelAffine::identity(2);
        affine.set(1, 1.0, 0.0, true);
        map.run_affine(isa, [(&x[..], layout)], &affine, &mut y, layout, false);
        assert!(y[0] == -1.0 && y[1].is_nan(), "{isa}");
        map.run(isa, [(&x[..], layout)], &mut y, layout, true, false);
        assert!(y[0] == 0.0 && y[1].is_nan(), "{isa}");
        let mut dx = vec![0.0; 16];
        map.inverse(0).run_where_positive(isa, (&[1.0; 16], layout), (&y, layout), &mut dx, layout, false);
        assert_eq!(dx[..2], [1.0, 0.0], "{isa}");
    }
}

#[test]
#[should_panic(expected = "used twice")]
fn channels_used_twice_have_no_inverse() {
    let _ = ChannelMap::new(&[1], &[Some((0, 0)), Some((0, 0))]).inverse(0);
}
