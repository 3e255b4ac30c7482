//! The report of a search.

use super::{pictures, tables};
use crate::commands::runs::quoted;
use crate::page::{Page, Section};
use anyhow::Result;
use dkd_trainer::search::{Search, State};
use std::path::Path;

/// The page, which needs no other file, and the same as Markdown. (`report.html` would make the folder look like a run.)
pub const PAGE: &str = "search.html";
const MARKDOWN: &str = "search.md";

/// What must be known of a search on generated images.
const SYNTHETIC: &str = "Generated images: what is good on them says nothing about photographs.";

/// Writes both, and the pictures.
pub fn write(search: &Search, state: &State, folder: &Path) -> Result<()> {
    let about = &state.about;
    let section = |title: &str, tables, figures| Section { title: title.to_owned(), tables, figures };
    let sections = [
        section("Settings", vec![tables::settings(search, state)], Vec::new()),
        section("Pictures", Vec::new(), vec![pictures::keys(search, state)?, pictures::progress(state)?]),
        section("Trials", vec![tables::all(search, state)], Vec::new()),
    ];
    let subject = format!(
        "{}: {} over the settings of {} on {}, seed {}. No test image was looked at.",
        about.name,
        about.strategy,
        search.base().place(),
        about.dataset,
        about.seed
    );
    let notes: Vec<String> = about.synthetic.then(|| SYNTHETIC.to_owned()).into_iter().collect();
    let page = Page { heading: "Search", subject, notes: &notes, sections: &sections };
    dkd_files::atomic_write_bytes(&folder.join(MARKDOWN), page.markdown().as_bytes())?;
    page.write(folder, PAGE)
}

/// What a terminal of 80 columns shows: the best trials, and the settings of the best as options to copy.
pub fn terminal(search: &Search, state: &State) -> String {
    let mut text = String::new();
    if state.about.synthetic {
        text.push_str(&format!("{SYNTHETIC}\n"));
    }
    text.push_str(&tables::best(search, state).text());
    match state.trials.iter().find(|t| Some(t.number) == state.best) {
        Some(best) => {
            text.push_str(&format!("\nsettings of trial {}:\n", best.number));
            for (key, value) in &best.values {
                let assignment = format!("{key}={}", tables::setting(value));
                text.push_str(&format!("  --set {}\n", quoted(&assignment)));
            }
        }
        None => text.push_str("\nall trials diverged: lower the learning rates or the weights of the loss\n"),
    }
    text
}
