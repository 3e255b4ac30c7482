//! From TOML files and `--set` to a checked [`Recipe`](crate::Recipe).
//!
//! Stage one reads files into [`raw`] settings, where every key is optional and unknown keys are errors; `extends` names a
//! file whose settings this one overrides. Stage two ([`Config::check`]) fills in defaults and checks ranges and names.
//!
//! ```
//! use dkd_trainer::config::Config;
//! let mut config = Config::parse("student.model = 'resnet20'\n[[loss]]\nmethod = 'ce'", "example")?;
//! config.set("train.epochs=3")?;
//! let recipe = config.check()?;
//! assert_eq!((recipe.train.epochs, recipe.rows[0].model.as_str()), (3, "resnet20"));
//! # Ok::<(), dkd_trainer::Error>(())
//! ```

mod check;
mod load;
pub mod raw;
mod resolved;

pub use load::Config;
pub(crate) use load::from_toml;
