//! Concatenation, slices, shuffles and padding of channels: one unit for a whole run of them.

use super::Gathers;
use super::lower::Lowering;
use super::unit::{ChannelsUnit, Unit};
use crate::graph::Op;
use dkd_kernels::channels::{ChannelMap, MAX_SOURCES};

/// For every channel of a value the value and channel it is taken from, or none for zeros.
type Table = Vec<Option<(usize, usize)>>;

/// Whether an operation only rearranges channels.
fn rearranges(op: &Op) -> bool {
    matches!(op, Op::Concat | Op::SliceChannels(_) | Op::ChannelShuffle { .. } | Op::PadChannels { .. })
}

impl Lowering<'_> {
    /// Plans node `index`, which only rearranges channels, unless its readers take the channels where it would.
    pub(super) fn channels(&mut self, index: usize) {
        if self.is_passed_over(index) {
            return;
        }
        let table = self.table(index);
        let (relu, last) = self.relu_after(index);
        let y = self.tensor(last);
        self.tensor_of[index] = Some(y);
        let (sources, from) = positions(&table, |value| self.layouts[value].channels);
        let widths: Vec<usize> = sources.iter().map(|value| self.layouts[*value].channels).collect();
        let inputs = sources.iter().map(|value| self.of(*value)).collect();
        let forward = ChannelMap::new(&widths, &from);
        let backward = (0..widths.len()).map(|source| forward.inverse(source)).collect();
        if self.gathers != Gathers::Stored
            && !relu
            && !self.pinned[last]
            && self.only_a_convolution_reads(last)
        {
            self.out.tensors[y].recomputed_by = Some(self.out.units.len());
        }
        let unit = ChannelsUnit { inputs, y, relu, forward, backward };
        self.out.units.push(Unit::Channels(Box::new(unit)));
    }

    /// Whether all readers of `value` are units that rearrange channels, which can normalise on the way.
    pub(super) fn only_gathers_read(&self, value: usize) -> bool {
        let readers = &self.readers[value];
        self.gathers != Gathers::Stored
            && !readers.is_empty()
            && readers.iter().all(|reader| rearranges(&self.graph.nodes()[*reader].op))
    }

    /// Whether a rearranged value never exists: all that read it rearrange as well, and can do both at once.
    fn is_passed_over(&self, index: usize) -> bool {
        let readers = &self.readers[index];
        let all = readers.iter().all(|r| {
            let reader = &self.graph.nodes()[*r];
            rearranges(&reader.op) && reader.inputs.len() == 1
                || reader.op == Op::Concat && self.sources_of_concat(*r) <= MAX_SOURCES
        });
        !self.pinned[index] && !readers.is_empty() && all
    }

    /// The most sources that a concatenation has if everything that rearranges before it is passed over.
    fn sources_of_concat(&self, index: usize) -> usize {
        let node = &self.graph.nodes()[index];
        let of = |value: usize| match &self.graph.nodes()[value].op {
            op if rearranges(op) => self.sources_of_concat(value),
            _ => 1,
        };
        node.inputs.iter().map(|input| of(input.0)).sum()
    }

    /// Where the channels of node `index` come from, through everything that is passed over.
    fn table(&self, index: usize) -> Table {
        let node = &self.graph.nodes()[index];
        let input = |i: usize| self.source_table(node.inputs[i].0);
        match &node.op {
            Op::Concat => (0..node.inputs.len()).flat_map(input).collect(),
            Op::SliceChannels(s) => input(0)[s.start..s.start + s.count].to_vec(),
            Op::ChannelShuffle { groups } => {
                let all = input(0);
                let size = all.len() / groups;
                (0..all.len()).map(|c| all[c % groups * size + c / groups]).collect()
            }
            Op::PadChannels { before, after } => [vec![None; *before], input(0), vec![None; *after]].concat(),
            _ => unreachable!("only called for operations that rearrange channels"),
        }
    }

    /// The channels of a value that is read: its own, if it exists.
    fn source_table(&self, value: usize) -> Table {
        match self.tensor_of[value] {
            Some(_) => (0..self.layouts[value].channels).map(|c| Some((value, c))).collect(),
            None => self.table(value),
        }
    }
}

/// The values that a table takes channels from, and the table by their positions. A value of which a channel is taken twice has
/// two positions, so that its gradient is a sum of two maps.
fn positions(table: &Table, channels: impl Fn(usize) -> usize) -> (Vec<usize>, Table) {
    let mut used: Vec<(usize, Vec<bool>)> = Vec::new();
    let mut place = |value: usize, channel: usize| {
        let free = |(v, taken): &(usize, Vec<bool>)| *v == value && !taken[channel];
        let at = used.iter().position(free).unwrap_or_else(|| {
            used.push((value, vec![false; channels(value)]));
            used.len() - 1
        });
        used[at].1[channel] = true;
        (at, channel)
    };
    let from = table.iter().map(|entry| entry.map(|(value, channel)| place(value, channel))).collect();
    (used.into_iter().map(|(value, _)| value).collect(), from)
}
