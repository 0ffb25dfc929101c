//! Activation functions by the names that configurations use.

use super::config::Config;
use crate::error::Result;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    GeluErf,
    GeluTanh,
    Relu,
    Tanh,
    Silu,
    Sigmoid,
}

/// Names and what they mean. The three names of the tanh form differ in rounding alone.
const NAMES: [(&str, Act); 11] = [
    ("gelu", Act::GeluErf),
    ("gelu_python", Act::GeluErf),
    ("gelu_new", Act::GeluTanh),
    ("gelu_fast", Act::GeluTanh),
    ("gelu_accurate", Act::GeluTanh),
    ("gelu_pytorch_tanh", Act::GeluTanh),
    ("relu", Act::Relu),
    ("tanh", Act::Tanh),
    ("silu", Act::Silu),
    ("swish", Act::Silu),
    ("sigmoid", Act::Sigmoid),
];

impl Act {
    /// The function called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Act> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, act)| *act)
    }

    /// The function that a field of the configuration names; `default` when the field is not there.
    ///
    /// # Errors
    /// When the function is not one of those supported.
    pub(crate) fn of(config: &Config, field: &str, default: Act) -> Result<Act> {
        let Some(name) = config.text(field)? else { return Ok(default) };
        Act::from_name(name).ok_or_else(|| {
            let known = NAMES.map(|(known, _)| known).join(", ");
            config.wrong(field, format!("the activation {name:?} is not supported; expected one of {known}"))
        })
    }
}
