//! One file's images and labels.

use crate::decode::Encoded;
use crate::{Error, Result};
use ::parquet::basic::{ConvertedType, Type as Physical};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::Type;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Names of columns of labels, the preferred ones first.
const LABELS: [&str; 4] = ["label", "labels", "fine_label", "fine_labels"];

/// Of one file.
#[derive(Debug)]
pub(super) struct Rows {
    pub file: PathBuf,
    pub labels: Vec<u32>,
    /// Encoded images.
    images: Vec<Vec<u8>>,
    /// From the hub's metadata.
    pub class_names: Option<Vec<String>>,
}

impl Rows {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |problem: String| Error::Folder { path: path.to_owned(), problem };
        let damaged =
            |e: ::parquet::errors::ParquetError| fail(format!("is no Parquet file that can be read: {e}"));
        let file = File::open(path).map_err(|e| fail(format!("cannot be opened: {e}")))?;
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let about = reader.metadata().file_metadata();
        let columns = Columns::of(about.schema()).map_err(fail)?;
        let hub = about.key_value_metadata().into_iter().flatten().find(|pair| pair.key == "huggingface");
        let class_names = hub.and_then(|pair| names(pair.value.as_deref()?, &columns.label));
        // Only as many as there are bytes for: the number of rows is a claim of the file.
        let (mut labels, mut images) = (Vec::new(), Vec::new());
        for (i, row) in reader.get_row_iter(None).map_err(damaged)?.enumerate() {
            let row = row.map_err(damaged)?;
            let (image, label) = columns.take(&row).map_err(|what| fail(format!("row {i}: {what}")))?;
            images.push(image);
            labels.push(label);
        }
        Ok(Self { file: path.to_owned(), labels, images, class_names })
    }

    /// Its images.
    pub fn encoded(&self) -> impl Iterator<Item = Encoded<'_>> {
        let rows = self.images.iter().enumerate();
        rows.map(|(row, bytes)| Encoded::Row { file: &self.file, row, bytes })
    }
}

/// The columns that matter, by name.
#[derive(Debug, PartialEq)]
struct Columns {
    image: String,
    label: String,
}

impl Columns {
    fn of(schema: &Type) -> std::result::Result<Self, String> {
        let is = |column: &Type, physical: &[Physical]| {
            column.is_primitive() && physical.contains(&column.get_physical_type())
        };
        let is_image = |column: &Type| {
            let text = column.get_basic_info().converted_type() == ConvertedType::UTF8;
            (is(column, &[Physical::BYTE_ARRAY]) && !text)
                || (column.is_group()
                    && column
                        .get_fields()
                        .iter()
                        .any(|f| f.name() == "bytes" && is(f, &[Physical::BYTE_ARRAY])))
        };
        let columns = schema.get_fields();
        let named = |of: &dyn Fn(&Type) -> bool| -> Vec<&str> {
            columns.iter().filter(|c| of(c)).map(|c| c.name()).collect()
        };
        let all = named(&|_| true).join(", ");
        // A group is an image before a column of bytes is.
        let mut images = named(&|c| is_image(c) && c.is_group());
        if images.is_empty() {
            images = named(&is_image);
        }
        let [image] = images[..] else {
            return Err(format!(
                "has {} columns that could be images, expected one: a group with `bytes`, or bytes. There are: {all}",
                images.len()
            ));
        };
        let numbers = named(&|c| is(c, &[Physical::INT32, Physical::INT64]));
        let preferred = LABELS.into_iter().find(|name| numbers.contains(name));
        let label = match (preferred, &numbers[..]) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, _) => {
                return Err(format!(
                    "has no column of whole numbers called {}, nor only one of another name. There are: {all}",
                    LABELS.map(|name| format!("`{name}`")).join(", ")
                ));
            }
        };
        Ok(Self { image: image.to_owned(), label: label.to_owned() })
    }

    /// A row's image and label.
    fn take(&self, row: &Row) -> std::result::Result<(Vec<u8>, u32), String> {
        let column = |name: &str| row.get_column_iter().find(|(n, _)| *n == name).map(|(_, field)| field);
        let bytes = match column(&self.image) {
            Some(Field::Group(group)) => group.get_column_iter().find(|(n, _)| *n == "bytes").map(|(_, f)| f),
            other => other,
        };
        let Some(Field::Bytes(bytes)) = bytes else {
            return Err(format!(
                "`{}` holds no bytes; images that are only named by a path must be embedded first",
                self.image
            ));
        };
        let number = match column(&self.label) {
            Some(Field::Byte(n)) => i64::from(*n),
            Some(Field::Short(n)) => i64::from(*n),
            Some(Field::Int(n)) => i64::from(*n),
            Some(Field::Long(n)) => *n,
            Some(Field::UByte(n)) => i64::from(*n),
            Some(Field::UShort(n)) => i64::from(*n),
            Some(Field::UInt(n)) => i64::from(*n),
            Some(Field::ULong(n)) => i64::try_from(*n).unwrap_or(-1),
            _ => return Err(format!("`{}` is no whole number", self.label)),
        };
        let label = u32::try_from(number).ok().filter(|n| *n < MAX_CLASSES);
        let label = label.ok_or_else(|| format!("label {number} is no class (0 to {})", MAX_CLASSES - 1))?;
        Ok((bytes.data().to_vec(), label))
    }
}

/// The most classes that there can be.
const MAX_CLASSES: u32 = 1 << 20;

/// The names of the label's classes in the hub's description of the columns.
fn names(text: &str, label: &str) -> Option<Vec<String>> {
    let about: serde_json::Value = serde_json::from_str(text).ok()?;
    let names = about["info"]["features"][label]["names"].as_array()?;
    names.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
}
