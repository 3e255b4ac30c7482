//! Which instruction set the kernels use, chosen at run time.

use std::fmt;

/// Environment variable that forces a variant: `avx512`, `avx2` or `portable`.
pub const ISA_VARIABLE: &str = "DKD_ISA";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Avx512,
    Avx2,
    Portable,
}

/// An instruction set that this machine has. A value of this type is the proof: kernels rely on it to call code
/// compiled for that set, so it can only be made by [`Isa::detect`], [`Isa::named`] and [`Isa::available`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(pub(crate) Kind);

/// A variant was asked for that is unknown or that this machine lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "instruction set `{asked}` is not available here; this machine has: {available} (see {ISA_VARIABLE})"
)]
pub struct IsaError {
    asked: String,
    available: String,
}

impl Isa {
    /// The best variant of this machine, or the one named by [`ISA_VARIABLE`].
    ///
    /// # Errors
    /// The variable names a variant that is unknown or absent.
    pub fn detect() -> Result<Self, IsaError> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Ok(Self::available()[0]),
        }
    }

    /// The variant called `name`.
    ///
    /// # Errors
    /// The name is unknown or this machine lacks the instructions.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let available = Self::available();
        available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| IsaError {
            asked: name.to_owned(),
            available: available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Every variant this machine can run, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                found.push(Self(Kind::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Self(Kind::Avx2));
            }
        }
        found.push(Self(Kind::Portable));
        found
    }

    /// Lower-case name, as [`ISA_VARIABLE`] takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Avx512 => "avx512",
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_is_always_there() {
        assert_eq!(Isa::named("portable").unwrap().name(), "portable");
        let message = Isa::named("sse9").unwrap_err().to_string();
        assert!(message.contains("sse9") && message.contains("portable"), "{message}");
    }
}
