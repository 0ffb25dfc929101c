//! What a configuration may say, whatever the family.

use super::config::Config;
use super::net::LayerSizes;
use crate::error::Result;

/// More layers than any encoder has; a larger number is a damaged file.
const MAX_LAYERS: usize = 1024;

/// A number of layers, bounded.
pub(crate) fn layer_count(config: &Config, field: &str) -> Result<usize> {
    bounded_layers(config, field, config.size(field)?)
}

/// `count`, which `field` decides, if an encoder can have as many layers.
pub(crate) fn bounded_layers(config: &Config, field: &str, count: usize) -> Result<usize> {
    if count > MAX_LAYERS {
        return Err(
            config.wrong(field, format!("expected at most {MAX_LAYERS} layers in all, found {count}"))
        );
    }
    Ok(count)
}

impl LayerSizes {
    /// Checks that the heads divide the hidden size.
    pub(crate) fn check(&self, config: &Config, hidden: &str, heads: &str) -> Result<()> {
        if self.hidden.is_multiple_of(self.heads) {
            return Ok(());
        }
        let reason =
            format!("expected a divisor of `{hidden}`, which is {}; found {}", self.hidden, self.heads);
        Err(config.wrong(heads, reason))
    }
}

/// Refuses what changes the meaning of the weights and is not an encoder with absolute positions.
pub(crate) fn refuse_variants(config: &Config) -> Result<()> {
    if let Some(kind) = config.text("position_embedding_type")?.filter(|kind| *kind != "absolute") {
        let reason = format!("expected \"absolute\"; {kind:?} is not supported");
        return Err(config.wrong("position_embedding_type", reason));
    }
    for field in ["is_decoder", "add_cross_attention"] {
        if config.flag_or(field, false)? {
            return Err(config.wrong(field, "decoders are not supported; expected false"));
        }
    }
    if config.object("pruned_heads")?.is_some_and(|heads| !heads.is_empty()) {
        return Err(config.wrong("pruned_heads", "pruned attention heads are not supported; expected none"));
    }
    Ok(())
}
