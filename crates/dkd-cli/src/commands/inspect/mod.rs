//! `dkd inspect`.

mod network;
mod weights;

use crate::args::InspectArgs;
use anyhow::Result;
use dkd_models::Description;
use std::path::Path;

/// Lists networks, or shows one or a file of weights.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let Some(name) = &args.model else { return network::all(args) };
    let path = Path::new(name);
    // A name of the list is never taken for a file that happens to be called so.
    if dkd_models::find(name).is_err() && !Description::is_path(name) && path.is_file() {
        return weights::show(path, args);
    }
    network::one(name, args)
}
