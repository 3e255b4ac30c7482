//! Memory of tensors, by name.

use super::super::import::shown;
use super::archive::Member;
use std::borrow::Cow;
use std::collections::HashMap;

/// Where the storages of a file are.
pub struct Storages<'a> {
    /// What can be used at once.
    ready: HashMap<String, Cow<'a, [u8]>>,
    /// Members of a zip file that nobody has asked for.
    members: HashMap<String, Member<'a>>,
}

impl<'a> Storages<'a> {
    /// Storages that lie in the file as they are.
    pub fn plain(ready: HashMap<String, Cow<'a, [u8]>>) -> Self {
        Self { ready, members: HashMap::new() }
    }

    /// Members of a zip file, unpacked and checked when they are asked for.
    pub fn packed(members: HashMap<String, Member<'a>>) -> Self {
        Self { ready: HashMap::new(), members }
    }

    /// The bytes of a storage.
    ///
    /// # Errors
    /// There is none of this name; it is damaged.
    pub fn bytes(&mut self, key: &str) -> Result<&[u8], String> {
        if let Some(member) = self.members.remove(key) {
            self.ready.insert(key.to_owned(), member.unpack()?);
        }
        match self.ready.get(key) {
            Some(bytes) => Ok(bytes),
            None => Err(format!("the file has no storage `{}`", shown(key))),
        }
    }
}
