//! Which of two versions of a method: the paper's, or the authors' program's.

/// Where a paper and its authors' program differ, which of the two is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// What the paper says.
    #[default]
    Paper,
    /// What the program behind the published numbers computes.
    Reference,
}

impl Form {
    /// Both forms.
    pub const ALL: [Self; 2] = [Self::Paper, Self::Reference];

    /// The name used in configuration files: `paper`, `reference`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Reference => "reference",
        }
    }

    /// The form called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}
