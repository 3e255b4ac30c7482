//! What a GPU must be asked, in one program that needs nothing beside it: reference values, the CPU's results, whole training
//! runs, and speed.
//!
//! A [`Suite`] runs parts one after the other. An error or a panic in one case is a line of the [`Report`], and the others go on.
//! Everything also runs on the emulated machine, in small: see [`Sizes::small`].

mod answers;
mod bench;
mod compare;
mod curves;
pub mod engines;
mod goldens;
pub mod machine;
mod network;
pub mod pack;
mod profile;
mod report;
mod results;
mod suite;
mod table;
mod training;

pub use report::{Keep, Line, Report};
pub use results::Results;
pub use suite::{Open, Part, Sizes, Suite, precision};
pub use table::Torch;
