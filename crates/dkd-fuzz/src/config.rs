//! Settings: a file, and assignments as `--set` takes them.

use crate::assert_names;
use dkd_trainer::Recipe;
use dkd_trainer::config::Config;

/// Names the text in messages.
const PLACE: &str = "fuzz.toml";

/// Beginning of a line (a comment to TOML) whose rest is an assignment.
const ASSIGNMENT: &str = "#set ";

/// Settings that can be used come back from their stored form as the same recipe; an assignment that is refused changes
/// nothing.
pub fn config(bytes: &[u8]) -> bool {
    // Files that are no text are refused before they are parsed.
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut config = match Config::parse(text, PLACE) {
        Ok(config) => config,
        Err(e) => {
            assert_names(&e, PLACE);
            return false;
        }
    };
    for assignment in text.lines().filter_map(|line| line.strip_prefix(ASSIGNMENT)) {
        let before = config.clone();
        if let Err(e) = config.set(assignment) {
            assert_names(&e, "--set");
            // As text: what is NaN is not equal to itself.
            assert_eq!(format!("{config:?}"), format!("{before:?}"), "{assignment}");
        }
    }
    match config.check() {
        Ok(recipe) => {
            check(&recipe);
            true
        }
        Err(e) => {
            assert_names(&e, PLACE);
            false
        }
    }
}

fn check(recipe: &Recipe) {
    assert!(!recipe.rows.is_empty());
    let (epochs, batches) = (recipe.train.epochs, 7);
    for row in &recipe.rows {
        row.objective().expect("settings that were checked make a loss");
        assert!(!row.setting().is_empty());
        assert_eq!(row.settings_sha256(recipe).len(), 16);
        for (epoch, batch) in [(1, 0), (epochs.div_ceil(2), 3), (epochs, batches - 1)] {
            let factor = row.schedule.factor(epoch, batch, batches, epochs);
            assert!(factor >= 0.0, "{factor} in epoch {epoch}, batch {batch}: {:?}", row.schedule);
        }
    }
    let stored = recipe.to_toml();
    let again = Config::parse(&stored, "stored").and_then(|config| config.check());
    let again = again.unwrap_or_else(|e| panic!("{e}\n{stored}"));
    assert_eq!(&again, recipe, "{stored}");
    assert_eq!(again.to_toml(), stored);
}
