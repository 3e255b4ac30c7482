//! Values on the command line: their ranges, and how they are read.

use clap::builder::RangedU64ValueParser;
use dkd_trainer::record::Derive;

/// Largest seed: configurations store seeds as TOML's numbers, which have a sign.
pub const MAX_SEED: u64 = i64::MAX as u64;

/// Most epochs: random numbers count them in 32 bits.
pub const MAX_EPOCHS: u64 = u32::MAX as u64;

/// Most images in a batch.
pub const MAX_BATCH: u64 = dkd_datasets::MAX_BATCH as u64;

/// A whole number from `least` to `most`.
pub fn whole<T: TryFrom<u64>>(least: u64, most: u64) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(least..=most)
}

/// `cpu`, `cuda` or `cuda:N`.
pub fn device(text: &str) -> Result<String, String> {
    let number = |n: &str| n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u32>().is_ok();
    if matches!(text, "cpu" | "cuda") || text.strip_prefix("cuda:").is_some_and(number) {
        return Ok(text.to_owned());
    }
    Err(format!("there is no device `{text}`; expected `cpu`, `cuda` or `cuda:N`, N counting from 0"))
}

/// Kinds of records with commas between them, or `none`.
pub fn records(text: &str) -> Result<Derive, String> {
    let mut all = Derive::default();
    if text == "none" {
        return Ok(all);
    }
    for kind in text.split(',') {
        match kind.trim() {
            "csv" => all.csv = true,
            "tensorboard" => all.tensorboard = true,
            other => {
                return Err(format!(
                    "there is no record `{other}`; expected `csv`, `tensorboard`, both with a comma between them, or `none`"
                ));
            }
        }
    }
    Ok(all)
}

/// Three finite numbers with commas between them.
pub fn three(text: &str) -> Result<[f32; 3], String> {
    const EXPECTED: &str = "expected three numbers with commas between them, such as 0.5,0.5,0.5";
    let mut values = Vec::new();
    for part in text.split(',') {
        let value: f32 = part.trim().parse().map_err(|_| format!("`{part}` is not a number; {EXPECTED}"))?;
        if !value.is_finite() {
            return Err(format!("`{part}` is not finite; {EXPECTED}"));
        }
        values.push(value);
    }
    <[f32; 3]>::try_from(values).map_err(|v| format!("{} numbers were given; {EXPECTED}", v.len()))
}

/// Three finite numbers above 0.
pub fn three_above_0(text: &str) -> Result<[f32; 3], String> {
    let values = three(text)?;
    match values.iter().find(|v| **v <= 0.0) {
        Some(v) => Err(format!("a standard deviation of {v} cannot be divided by; expected numbers above 0")),
        None => Ok(values),
    }
}

/// Channels, height and width with `x` between them.
pub fn image_size(text: &str) -> Result<(usize, usize, usize), String> {
    const MOST: usize = 4096;
    let sizes: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    match sizes.as_deref() {
        Ok([c, h, w]) if [c, h, w].iter().all(|n| (1..=MOST).contains(*n)) => Ok((*c, *h, *w)),
        _ => Err(format!("expected channels, height and width from 1 to {MOST}, such as 3x32x32")),
    }
}
