//! Facts about the data sets that can be read and fetched.

use crate::{Error, Normalization, Result, folder, synthetic};

/// One file of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Name in the data set's folder.
    pub name: &'static str,
    /// Records in the file.
    pub records: usize,
}

/// A data set in the binary layout of CIFAR: records of label bytes, then 1024 bytes each of red, green and blue.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSpec {
    /// Name on the command line.
    pub name: &'static str,
    /// Number of classes.
    pub num_classes: usize,
    /// Label bytes of a record; the last is the class.
    pub label_bytes: usize,
    /// Folder that the archive unpacks to.
    pub folder: &'static str,
    /// Training files, in order.
    pub train: &'static [DataFile],
    /// Test files.
    pub test: &'static [DataFile],
    /// File with one class name per line, if the archive has it.
    pub names_file: &'static str,
    /// Name of the archive.
    pub archive: &'static str,
    /// Where the archive lies.
    pub base_url: &'static str,
    /// MD5 of the archive, as its site publishes it.
    pub md5: &'static str,
    /// Size of the archive in bytes, about.
    pub archive_bytes: u64,
    /// Mean and standard deviation of the training pixels.
    pub normalization: Normalization,
}

impl DatasetSpec {
    /// Bytes of one record.
    pub fn record_bytes(&self) -> usize {
        self.label_bytes + 3 * 32 * 32
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &DataFile> {
        self.train.iter().chain(self.test)
    }
}

const fn file(name: &'static str, records: usize) -> DataFile {
    DataFile { name, records }
}

/// CIFAR-10 (Krizhevsky, *Learning multiple layers of features from tiny images*, 2009).
pub const CIFAR10: DatasetSpec = DatasetSpec {
    name: "cifar10",
    num_classes: 10,
    label_bytes: 1,
    folder: "cifar-10-batches-bin",
    train: &[
        file("data_batch_1.bin", 10_000),
        file("data_batch_2.bin", 10_000),
        file("data_batch_3.bin", 10_000),
        file("data_batch_4.bin", 10_000),
        file("data_batch_5.bin", 10_000),
    ],
    test: &[file("test_batch.bin", 10_000)],
    names_file: "batches.meta.txt",
    archive: "cifar-10-binary.tar.gz",
    base_url: "https://www.cs.toronto.edu/~kriz/",
    md5: "c32a1d4ab5d03f1284b67883e8d87530",
    archive_bytes: 170_052_171,
    normalization: Normalization { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616] },
};

/// CIFAR-100 with its 100 fine labels. Ten images are in both the training and the test split: so it is published.
pub const CIFAR100: DatasetSpec = DatasetSpec {
    name: "cifar100",
    num_classes: 100,
    label_bytes: 2,
    folder: "cifar-100-binary",
    train: &[file("train.bin", 50_000)],
    test: &[file("test.bin", 10_000)],
    names_file: "fine_label_names.txt",
    archive: "cifar-100-binary.tar.gz",
    base_url: "https://www.cs.toronto.edu/~kriz/",
    md5: "03b5dce01913d631647c71ecec9e9cb8",
    archive_bytes: 168_513_733,
    normalization: Normalization { mean: [0.5071, 0.4865, 0.4409], std: [0.2673, 0.2564, 0.2762] },
};

/// The data set called `name`, of those that consist of files.
///
/// # Errors
/// [`Error::UnknownDataset`], with the most similar name.
pub fn spec(name: &str) -> Result<&'static DatasetSpec> {
    static ALL: [DatasetSpec; 2] = [CIFAR10, CIFAR100];
    ALL.iter().find(|s| s.name == name).ok_or_else(|| {
        // The generated one and folders have no such files, but whoever asks for a name may mean them.
        let known: Vec<&str> = ALL.iter().map(|s| s.name).chain([synthetic::NAME, folder::NAME]).collect();
        let nearest = nearest(name, &known).map(str::to_owned);
        Error::UnknownDataset { name: name.to_owned(), nearest, known: known.join(", ") }
    })
}

/// The name that looks most like `name`, if one does.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let asked = name.to_lowercase().replace(['-', '_', ' '], "");
    let score = |k: &str| strsim::normalized_damerau_levenshtein(&asked, k);
    let best = known.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= 0.6).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_suggests_the_nearest() {
        let message = |name: &str| spec(name).unwrap_err().to_string();
        let cases = [
            ("cifar11", "cifar10"),
            ("CIFAR-10", "cifar10"),
            ("cifar_100", "cifar100"),
            ("cifar", "cifar10"),
            ("sintetic", "synthetic"),
        ];
        for (asked, expected) in cases {
            let message = message(asked);
            assert!(message.contains(&format!("`{asked}`, did you mean `{expected}`?")), "{message}");
        }
        let unlike = message("mnist");
        assert!(!unlike.contains("did you mean"), "{unlike}");
        assert!(
            ["cifar10", "cifar100", "synthetic", "folder"].iter().all(|n| unlike.contains(n)),
            "{unlike}"
        );
    }
}
