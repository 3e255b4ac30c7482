//! A file of which a part has arrived, and what it is a part of.

use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// First line of the file beside a partial file; another one belongs to another version and is not understood.
const VERSION: &str = "dkd partial file 1";

/// Largest such file that is read.
const INFO_LIMIT: u64 = 16 * 1024;

/// What tells whether a server still has the same file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub url: String,
    /// The header `ETag`.
    pub etag: Option<String>,
    /// The header `Last-Modified`.
    pub modified: Option<String>,
    /// Bytes of the whole file.
    pub size: Option<u64>,
}

impl Origin {
    fn to_text(&self) -> String {
        let size = self.size.map(|s| s.to_string());
        let lines = [("etag", &self.etag), ("last-modified", &self.modified), ("size", &size)];
        let known = lines.iter().filter_map(|(key, value)| Some(format!("{key} {}\n", value.as_ref()?)));
        format!("{VERSION}\nurl {}\n{}", self.url, known.collect::<String>())
    }

    /// `None` if the text was not written by [`Origin::to_text`].
    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(VERSION) {
            return None;
        }
        let mut origin = Self::default();
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            // They go into the head of a request.
            if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                return None;
            }
            match key {
                "url" => origin.url = value.to_owned(),
                "etag" => origin.etag = Some(value.to_owned()),
                "last-modified" => origin.modified = Some(value.to_owned()),
                "size" => origin.size = Some(value.parse().ok()?),
                _ => return None,
            }
        }
        Some(origin)
    }

    /// What the server compares before it sends only a part. A weak `ETag` (`W/…`) does not promise the same bytes.
    pub fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|e| !e.starts_with("W/"));
        strong.or(self.modified.as_deref())
    }
}

/// A partial file on the disk.
pub(super) struct Partial {
    path: PathBuf,
    origin: Origin,
    length: u64,
    /// Open for appending once bytes are expected.
    file: Option<File>,
    /// Whether a checksum of the whole file will tell if parts of two files were put together.
    checked: bool,
}

impl Partial {
    /// Looks at what is there. A file that does not belong to `url` or whose origin is not known counts as nothing.
    ///
    /// # Errors
    /// None yet for what is missing; [`Error::File`] if the system does not let it look.
    pub fn open(path: PathBuf, url: &str, checked: bool) -> Result<Self> {
        let fresh = Origin { url: url.to_owned(), ..Origin::default() };
        let mut partial = Self { path, origin: fresh, length: 0, file: None, checked };
        // A link is not followed: it leads out of the folder.
        let length = match std::fs::symlink_metadata(&partial.path) {
            Ok(found) if found.is_file() => found.len(),
            Ok(_) => 0,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(partial.failed("read")(e)),
        };
        let text = dkd_files::read_text_limited(&partial.info_path(), INFO_LIMIT);
        let origin = text.ok().and_then(|text| Origin::from_text(&text));
        match origin {
            Some(o) if length > 0 && o.url == url && o.size.is_none_or(|size| length <= size) => {
                (partial.origin, partial.length) = (o, length);
            }
            _ => {}
        }
        Ok(partial)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are here.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of the whole file, if they are known.
    pub fn size(&self) -> Option<u64> {
        self.origin.size
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn is_complete(&self) -> bool {
        self.length > 0 && self.origin.size == Some(self.length)
    }

    /// Whether more can be appended without a risk of putting two files together unnoticed.
    pub fn can_go_on(&self) -> bool {
        self.checked || self.is_complete() || self.origin.validator().is_some()
    }

    /// Begins anew: the next byte is the first of the file described.
    pub fn begin(&mut self, origin: Origin) -> Result<()> {
        self.forget()?;
        self.origin = origin;
        self.write_info()?;
        let file = OpenOptions::new().write(true).create_new(true).open(&self.path);
        self.file = Some(file.map_err(self.failed("write"))?);
        Ok(())
    }

    /// Gets ready to append.
    pub fn go_on(&mut self) -> Result<()> {
        let file = OpenOptions::new().append(true).open(&self.path).map_err(self.failed("write"))?;
        self.file = Some(file);
        Ok(())
    }

    /// Appends bytes; [`Partial::begin`] or [`Partial::go_on`] came before.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(std::io::Error::other("it is not open")),
        };
        if let Err(error) = written {
            // Some of them may be there.
            if let Ok(found) = std::fs::metadata(&self.path) {
                self.length = found.len();
            }
            return Err(self.failed("write")(error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Notes that all bytes are here.
    pub fn complete(&mut self) -> Result<()> {
        self.file = None;
        if self.origin.size != Some(self.length) {
            self.origin.size = Some(self.length);
            self.write_info()?;
        }
        Ok(())
    }

    /// Drops what is here and goes on as if nothing had ever arrived.
    pub fn forget(&mut self) -> Result<()> {
        self.file = None;
        self.discard()?;
        (self.length, self.origin.size) = (0, None);
        (self.origin.etag, self.origin.modified) = (None, None);
        Ok(())
    }

    /// Removes the file and what is beside it.
    pub fn discard(&self) -> Result<()> {
        for path in [&self.path, &self.info_path()] {
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    let path = path.clone();
                    return Err(Error::File(dkd_files::Error::Io { action: "remove", path, source }));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn info_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".info");
        name.into()
    }

    fn write_info(&self) -> Result<()> {
        Ok(dkd_files::atomic_write_bytes(&self.info_path(), self.origin.to_text().as_bytes())?)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::File(dkd_files::Error::Io { action, path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_survive_and_damaged_ones_are_not_believed() {
        let url = "http://a/b c?d=e".to_owned();
        let full = Origin {
            url,
            etag: Some("\"x y\"".to_owned()),
            modified: Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
            size: Some(7),
        };
        for origin in
            [full.clone(), Origin { etag: None, ..full.clone() }, Origin { size: None, ..full.clone() }]
        {
            assert_eq!(Origin::from_text(&origin.to_text()), Some(origin));
        }
        let text = full.to_text();
        for (from, to) in
            [("file 1", "file 2"), ("size 7", "size -7"), ("etag ", "etag\t"), ("x y", "x\u{7f}y")]
        {
            assert_eq!(Origin::from_text(&text.replace(from, to)), None, "{to}");
        }
        assert_eq!(Origin::from_text(""), None);
    }

    #[test]
    fn only_strong_tags_and_dates_are_compared() {
        let origin = |etag: Option<&str>, modified: Option<&str>| Origin {
            etag: etag.map(str::to_owned),
            modified: modified.map(str::to_owned),
            ..Origin::default()
        };
        assert_eq!(origin(Some("\"a\""), Some("Sun")).validator(), Some("\"a\""));
        assert_eq!(origin(Some("W/\"a\""), Some("Sun")).validator(), Some("Sun"));
        assert_eq!(origin(Some("W/\"a\""), None).validator(), None);
    }

    #[test]
    fn a_file_is_only_continued_where_it_belongs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.part");
        let open = |url: &str| Partial::open(path.clone(), url, false).unwrap();
        let origin =
            Origin { url: "u".to_owned(), etag: Some("\"1\"".to_owned()), modified: None, size: Some(4) };
        let mut partial = open("u");
        partial.begin(origin.clone()).unwrap();
        partial.append(b"abc").unwrap();
        let again = open("u");
        assert_eq!((again.length(), again.origin()), (3, &origin));
        assert!(again.can_go_on() && !again.is_complete());
        assert_eq!(open("other").length(), 0);
        let mut again = open("u");
        again.go_on().unwrap();
        again.append(b"d").unwrap();
        assert!(again.is_complete() && open("u").is_complete());
        // Longer than it can be; without its description; with nothing at all.
        std::fs::write(&path, b"abcde").unwrap();
        assert_eq!(open("u").length(), 0);
        std::fs::write(&path, b"abc").unwrap();
        std::fs::write(open("u").info_path(), b"?").unwrap();
        assert_eq!(open("u").length(), 0);
        open("u").discard().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_its_place_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.part"), folder.path().join("precious"));
        std::fs::write(&other, b"mine").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let mut partial = Partial::open(path.clone(), "u", false).unwrap();
        assert_eq!(partial.length(), 0);
        partial.begin(Origin { url: "u".to_owned(), ..Origin::default() }).unwrap();
        partial.append(b"new").unwrap();
        assert_eq!(
            (std::fs::read(&other).unwrap(), std::fs::read(&path).unwrap()),
            (b"mine".into(), b"new".into())
        );
    }
}
