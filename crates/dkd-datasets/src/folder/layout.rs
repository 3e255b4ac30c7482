//! Which files there are, and their classes.

use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Ends of names that are images.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Largest list of annotations or words that is read.
const LIST_LIMIT: u64 = 64 << 20;

/// Tiny-ImageNet's classes of the validation images.
const ANNOTATIONS: &str = "val_annotations.txt";

/// Files with their classes.
#[derive(Debug)]
pub(super) struct Layout {
    pub train: Vec<(PathBuf, u32)>,
    pub test: Vec<(PathBuf, u32)>,
    pub class_names: Vec<String>,
}

impl Layout {
    /// Looks through `folder`.
    pub fn of(folder: &Path) -> Result<Self> {
        let train = folder.join("train");
        if !train.is_dir() {
            return Err(wrong(
                folder,
                "has no folder `train`; a data set is `train/CLASS/IMAGE` and `test/CLASS/IMAGE`",
            ));
        }
        let classes = folders(&train)?;
        if classes.is_empty() {
            return Err(wrong(
                &train,
                "has no folders: one for each class is expected, with its images in it",
            ));
        }
        let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        let train = by_class(&train, &classes, &numbers)?;
        let test = test_images(folder, &numbers)?;
        let class_names = names(folder, &classes);
        Ok(Self { train, test, class_names })
    }
}

fn wrong(path: &Path, problem: impl Into<String>) -> Error {
    Error::Folder { path: path.to_owned(), problem: problem.into() }
}

/// Names of what is in a folder, hidden things aside, in order.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let list = list.map_err(|e| wrong(folder, format!("cannot be listed: {e}")))?;
    let named = list.into_iter().filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())));
    let mut named: Vec<_> = named.filter(|(name, _)| !name.starts_with('.')).collect();
    named.sort();
    Ok(named)
}

fn folders(folder: &Path) -> Result<Vec<String>> {
    Ok(entries(folder)?.into_iter().filter(|(_, path)| path.is_dir()).map(|(name, _)| name).collect())
}

/// The images of a class's folder, or of the folder `images` in it.
fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let inner = folder.join("images");
    let folder = if inner.is_dir() { &inner } else { folder };
    let is_image = |name: &str| {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        ENDINGS.iter().any(|e| ending.eq_ignore_ascii_case(e))
    };
    let images: Vec<PathBuf> =
        entries(folder)?.into_iter().filter(|(name, _)| is_image(name)).map(|(_, path)| path).collect();
    if images.is_empty() {
        return Err(wrong(folder, "holds no image (.png, .jpg, .jpeg or .webp)"));
    }
    Ok(images)
}

/// The images of folders that are called like classes.
fn by_class(folder: &Path, found: &[String], numbers: &HashMap<&str, u32>) -> Result<Vec<(PathBuf, u32)>> {
    let mut all = Vec::new();
    for class in found {
        let path = folder.join(class);
        let label = *numbers.get(class.as_str()).ok_or_else(|| wrong(&path, unknown(class, numbers)))?;
        all.extend(images(&path)?.into_iter().map(|image| (image, label)));
    }
    Ok(all)
}

fn unknown(class: &str, numbers: &HashMap<&str, u32>) -> String {
    let near = numbers.keys().max_by(|a, b| {
        let score = |k: &str| strsim::normalized_damerau_levenshtein(class, k);
        score(a).total_cmp(&score(b)).then(b.cmp(a))
    });
    let near = near.map_or_else(String::new, |name| format!("; the nearest is `{name}`"));
    format!("`{class}` is no class of the training images{near}")
}

fn test_images(folder: &Path, numbers: &HashMap<&str, u32>) -> Result<Vec<(PathBuf, u32)>> {
    let (test, val) = (folder.join("test"), folder.join("val"));
    if val.join(ANNOTATIONS).is_file() {
        return annotated(&val, numbers);
    }
    let Some(found) = [test, val].into_iter().find(|path| path.is_dir()) else {
        return Err(wrong(
            folder,
            "has neither a folder `test` nor `val`: images to measure accuracy on are needed",
        ));
    };
    by_class(&found, &folders(&found)?, numbers)
}

/// Images of all classes in one folder, with a list: name, tab, class, tab, anything.
fn annotated(val: &Path, numbers: &HashMap<&str, u32>) -> Result<Vec<(PathBuf, u32)>> {
    let list = val.join(ANNOTATIONS);
    let text = dkd_files::read_text_limited(&list, LIST_LIMIT)?;
    let mut all = Vec::new();
    for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let mut columns = text.split('\t');
        let (Some(name), Some(class)) = (columns.next(), columns.next()) else {
            return Err(wrong(&list, format!("line {}: expected a file name, a tab and a class", line + 1)));
        };
        let Some(label) = numbers.get(class) else {
            return Err(wrong(&list, format!("line {}: {}", line + 1, unknown(class, numbers))));
        };
        if name.contains(['/', '\\']) || name == ".." {
            return Err(wrong(&list, format!("line {}: `{name}` is no file name", line + 1)));
        }
        all.push((val.join("images").join(name), *label));
    }
    if all.is_empty() {
        return Err(wrong(&list, "names no image"));
    }
    Ok(all)
}

/// What people call the classes: the first name in `words.txt` (class, tab, names) where there is one.
fn names(folder: &Path, classes: &[String]) -> Vec<String> {
    let words = dkd_files::read_text_limited(&folder.join("words.txt"), LIST_LIMIT).unwrap_or_default();
    let words: HashMap<&str, &str> = words.lines().filter_map(|line| line.split_once('\t')).collect();
    let name = |class: &String| {
        let first = words.get(class.as_str()).and_then(|names| names.split(',').next()).map(str::trim);
        first.filter(|name| !name.is_empty()).map_or_else(|| class.clone(), str::to_owned)
    };
    classes.iter().map(name).collect()
}
