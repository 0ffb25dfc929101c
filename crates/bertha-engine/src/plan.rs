//! Section `plan:TARGET`: what a target runs, behind a header that any program can read.
//!
//! ```text
//! header length (u32) | header (JSON) | payload
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::layout::read_u32;

/// What a host must know about a plan to tell whether it can run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanHeader {
    /// The target that the plan is for, such as `cpu`: the end of the section's name.
    pub target: String,
    /// The program that lowered the plan, with its version. For people; [`Self::plan_format`] is what decides.
    pub producer: String,
    /// Version of the payload's encoding, counted by the target.
    pub plan_format: u32,
    /// Features that the host must have, such as `avx512f`. The target gives them their meaning.
    pub requirements: Vec<String>,
}

/// A plan, as read from a file.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it needs.
    pub header: PlanHeader,
    /// The target's own encoding. Opaque to the container, and not aligned.
    pub payload: Bytes,
}

impl PlanHeader {
    /// The bytes of a plan section up to its payload.
    pub(crate) fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).map_err(serde::ser::Error::custom)?;
        Ok([&length.to_le_bytes(), json.as_slice()].concat())
    }

    /// Reads the header of the plan section `section` at `offset` in the file; also returns where the payload begins.
    pub(crate) fn decode(
        bytes: &[u8],
        section: &str,
        target: &str,
        offset: u64,
    ) -> Result<(Self, usize), Fault> {
        let invalid = |reason| Fault::InvalidSection { section: section.to_owned(), offset, reason };
        let json = read_u32(bytes, 0)
            .and_then(|length| usize::try_from(length).ok())
            .and_then(|length| bytes.get(4..)?.get(..length))
            .ok_or_else(|| invalid("its header is longer than the section".into()))?;
        let header: Self = serde_json::from_slice(json)
            .map_err(|error| invalid(format!("its header is not one: {error}")))?;
        if header.target != target {
            return Err(invalid(format!("its header is for target `{}`", header.target)));
        }
        Ok((header, 4 + json.len()))
    }
}
