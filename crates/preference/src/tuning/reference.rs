//! What a tuned model stays close to.

use burn::module::Module as _;
use nn::decoder::Decoder;
use nn::hub::{Environment, Watch};

use super::error::TuningError;
use super::objective::Objective;
use super::tuner::Tuner;
use crate::model::LanguageModel;

/// The reference, without gradients: the model `name`, or the tuner's own, which must hold the weights that it starts from.
///
/// # Errors
///
/// [`TuningError`] for a reference that cannot be opened or has another vocabulary.
pub fn reference<O: Objective>(
    tuner: &Tuner<O>,
    name: Option<&str>,
    environment: &Environment,
    watch: &mut Watch<'_>,
) -> Result<Decoder, TuningError> {
    let own = &tuner.model().decoder;
    let Some(name) = name else {
        return Ok(own.valid());
    };
    let reference = LanguageModel::open(name, environment, watch, &own.device().inner())?;
    let [own, others] = [own, &reference.decoder].map(|decoder| decoder.config().vocabulary_size);
    if own != others {
        return Err(TuningError::ReferenceVocabulary {
            reference: name.to_owned(),
            own,
            others,
        });
    }
    Ok(reference.decoder)
}
