//! Operations that only rearrange channels.

use super::{GraphBuilder, Op, Shape, SliceChannels, ValueId};

/// Most values of one concatenation.
const MAX_CONCAT: usize = dkd_kernels::channels::MAX_SOURCES;

impl GraphBuilder {
    /// The channels of several maps of one size, in order (`torch.cat(values, 1)`); at most 16 of them.
    pub fn concat(&mut self, values: &[ValueId]) -> ValueId {
        let Some(first) = values.first() else {
            return self.fail("concat", "needs at least one value".to_owned());
        };
        if values.len() > MAX_CONCAT {
            return self.fail("concat", format!("{} values; at most {MAX_CONCAT}", values.len()));
        }
        let mut channels = 0;
        for value in values {
            let (shape, expected) = (self.shape(*value), self.shape(*first));
            if shape.size() != expected.size() || shape.dims().len() != expected.dims().len() {
                return self.fail("concat", format!("{expected} and {shape} are not of one size"));
            }
            channels += shape.channels();
        }
        let shape = self.with_channels(*first, channels);
        self.push(Op::Concat, values, shape)
    }

    /// Channels `start..start + count`.
    pub fn slice_channels(&mut self, x: ValueId, start: usize, count: usize) -> ValueId {
        let channels = self.shape(x).channels();
        if count == 0 || start.checked_add(count).is_none_or(|end| end > channels) {
            let message =
                format!("channels {start} to {start}+{count} are not there: the input has {channels}");
            return self.fail("slice_channels", message);
        }
        let shape = self.with_channels(x, count);
        self.push(Op::SliceChannels(SliceChannels { start, count }), &[x], shape)
    }

    /// All channels in two parts, the first of `count` channels.
    pub fn split_channels(&mut self, x: ValueId, count: usize) -> (ValueId, ValueId) {
        let rest = self.shape(x).channels().saturating_sub(count);
        (self.slice_channels(x, 0, count), self.slice_channels(x, count, rest))
    }

    /// Mixes the channels of `groups` groups: channel i of group g becomes channel g of group i.
    pub fn channel_shuffle(&mut self, x: ValueId, groups: usize) -> ValueId {
        let shape = self.shape(x);
        if groups == 0 || !shape.channels().is_multiple_of(groups) {
            let message = format!("{} channels cannot form {groups} groups", shape.channels());
            return self.fail("channel_shuffle", message);
        }
        self.push(Op::ChannelShuffle { groups }, &[x], shape)
    }

    /// Channels of zeros before and after those of `x`.
    pub fn pad_channels(&mut self, x: ValueId, before: usize, after: usize) -> ValueId {
        let shape = self.with_channels(x, before + self.shape(x).channels() + after);
        self.push(Op::PadChannels { before, after }, &[x], shape)
    }

    /// The shape of `x` with another number of channels.
    fn with_channels(&self, x: ValueId, channels: usize) -> Shape {
        match self.shape(x) {
            Shape::Map { h, w, .. } => Shape::Map { c: channels, h, w },
            Shape::Vector(_) => Shape::Vector(channels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, Error};

    fn message(record: impl FnOnce(&mut GraphBuilder, ValueId) -> ValueId) -> String {
        let mut b = GraphBuilder::new(6, 4, 4);
        let x = b.input();
        let x = record(&mut b, x);
        let x = b.global_avg_pool(x);
        b.build(x).map(|_| ()).map_err(|e: Error| e.to_string()).unwrap_err()
    }

    #[test]
    fn shapes() {
        let mut b = GraphBuilder::new(6, 4, 4);
        let x = b.input();
        let (first, rest) = b.split_channels(x, 2);
        let all = b.concat(&[rest, first, x]);
        let padded = b.pad_channels(all, 1, 3);
        let shuffled = b.channel_shuffle(padded, 4);
        let channels = |v| b.shape(v).channels();
        assert_eq!([first, rest, all, padded, shuffled].map(channels), [2, 4, 12, 16, 16]);
        assert_eq!(b.shape(shuffled).size(), (4, 4));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let text = message(|b, x| b.channel_shuffle(x, 4));
        assert!(text.contains("6 channels cannot form 4 groups"), "{text}");
        let text = message(|b, x| b.slice_channels(x, 5, 2));
        assert!(text.contains("the input has 6"), "{text}");
        let text = message(|b, x| b.split_channels(x, 7).1);
        assert!(text.contains("slice_channels"), "{text}");
        let text = message(|b, x| {
            let y = b.conv2d(x, Conv2d::new("c", 6, 3));
            b.concat(&[x, y])
        });
        assert!(text.contains("6x4x4 and 6x2x2 are not of one size"), "{text}");
        assert!(message(|b, _| b.concat(&[])).contains("at least one"));
        assert!(message(|b, x| b.concat(&[x; 17])).contains("at most 16"));
    }
}
