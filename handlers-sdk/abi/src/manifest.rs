//! The manifest: what a module says about itself, as JSON in the custom section `outgate`.

/// What a handler can be called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "manifest", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "manifest", serde(rename_all = "camelCase"))]
pub enum Hook {
    /// The request's head. Every handler has it.
    Request,
    /// The request's body, by chunk.
    RequestBody,
    /// The response's head.
    Response,
    /// The response's body, by chunk.
    ResponseBody,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 4] = [Self::Request, Self::RequestBody, Self::Response, Self::ResponseBody];

    /// Its name in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::RequestBody => "requestBody",
            Self::Response => "response",
            Self::ResponseBody => "responseBody",
        }
    }
}

#[cfg(feature = "manifest")]
mod json {
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::Hook;
    use crate::ABI_VERSION;
    use crate::limits::MANIFEST_BYTES_MAX;
    use crate::names::is_name;

    /// A module's manifest. Fields that this version does not know are skipped: the contract only grows.
    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    pub struct Manifest {
        /// Version of the contract.
        pub abi: u16,
        /// Default name of the handler.
        pub name: String,
        /// What it wants to be called for.
        pub hooks: Vec<Hook>,
        /// JSON schema of its parameters, where it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub params: Option<serde_json::Value>,
    }

    /// Why a manifest is refused.
    #[derive(Debug, thiserror::Error)]
    pub enum ManifestError {
        /// The section is longer than its bound.
        #[error("the manifest has {0} bytes, more than {MANIFEST_BYTES_MAX}")]
        TooLong(usize),
        /// Not the JSON of a manifest, or a hook that this version does not know.
        #[error("the manifest is malformed")]
        Json(#[source] serde_json::Error),
        /// Made for another version.
        #[error("the module speaks version {0} of the contract, this gateway version {ABI_VERSION}")]
        Version(u16),
        /// The name is not one.
        #[error("{0:?} is not a handler's name")]
        Name(String),
        /// Without the request's head there is nothing to call.
        #[error("the manifest lacks the hook \"request\"")]
        NoRequestHook,
    }

    impl Manifest {
        /// Reads the section's bytes.
        ///
        /// # Errors
        /// As [`ManifestError`] says.
        pub fn parse(section: &[u8]) -> Result<Self, ManifestError> {
            if section.len() > MANIFEST_BYTES_MAX {
                return Err(ManifestError::TooLong(section.len()));
            }
            let manifest: Self = serde_json::from_slice(section).map_err(ManifestError::Json)?;
            if manifest.abi != ABI_VERSION {
                return Err(ManifestError::Version(manifest.abi));
            }
            if !is_name(manifest.name.as_bytes()) {
                return Err(ManifestError::Name(manifest.name));
            }
            if !manifest.hooks.contains(&Hook::Request) {
                return Err(ManifestError::NoRequestHook);
            }
            Ok(manifest)
        }
    }
}

#[cfg(feature = "manifest")]
pub use json::{Manifest, ManifestError};

#[cfg(all(test, feature = "manifest"))]
mod tests {
    use super::*;

    #[test]
    fn version_one_has_golden_bytes() {
        let golden = br#"{"abi":1,"name":"injectToken","hooks":["request"]}"#;
        let manifest = Manifest::parse(golden).expect("a manifest");
        assert_eq!(manifest.hooks, [Hook::Request]);
        assert_eq!(serde_json::to_vec(&manifest).expect("JSON"), golden);
    }

    #[test]
    fn every_hook_is_known_by_its_name() {
        for hook in Hook::ALL {
            assert_eq!(serde_json::to_string(&hook).expect("JSON"), format!("\"{}\"", hook.name()));
        }
    }

    #[test]
    fn other_versions_names_and_hooks_are_refused() {
        let parse = |text: &str| Manifest::parse(text.as_bytes());
        assert!(matches!(
            parse(r#"{"abi":2,"name":"a","hooks":["request"]}"#),
            Err(ManifestError::Version(2))
        ));
        assert!(matches!(parse(r#"{"abi":1,"name":"","hooks":["request"]}"#), Err(ManifestError::Name(_))));
        assert!(matches!(parse(r#"{"abi":1,"name":"a","hooks":[]}"#), Err(ManifestError::NoRequestHook)));
        assert!(matches!(parse(r#"{"abi":1,"name":"a","hooks":["dream"]}"#), Err(ManifestError::Json(_))));
        assert!(matches!(parse("{"), Err(ManifestError::Json(_))));
        assert!(matches!(Manifest::parse(&vec![b' '; 65_537]), Err(ManifestError::TooLong(65_537))));
    }

    #[test]
    fn fields_of_later_versions_are_skipped() {
        assert!(Manifest::parse(br#"{"abi":1,"name":"a","hooks":["request"],"more":1}"#).is_ok());
    }
}
