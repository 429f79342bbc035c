//! What a tuned model stays close to.

use burn::module::Module as _;
use nn::decoder::Decoder;
use nn::hub::{Environment, Watch};

use super::error::TuningError;
use super::objective::Objective;
use super::tuner::Tuner;
use crate::model::LanguageModel;
use crate::text::Tokenizer;

/// The reference, without gradients: the model `name`, or the tuner's own, which must hold the weights that it starts from.
///
/// # Errors
///
/// [`TuningError`] for a reference that cannot be opened, has another vocabulary, or ends its answers with another token.
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
    if reference.decoder.config().scores {
        return Err(TuningError::ReferenceScores {
            reference: name.to_owned(),
        });
    }
    let [own, others] = [own, &reference.decoder].map(|decoder| decoder.config().vocabulary_size);
    if own != others {
        return Err(TuningError::ReferenceVocabulary {
            reference: name.to_owned(),
            own,
            others,
        });
    }
    check_tokens(name, &tuner.model().tokenizer, &reference.tokenizer)?;
    Ok(reference.decoder)
}

/// Whether the model's tokens mean to the reference what they mean to the model: each stands for the same text, and the one
/// that ends an answer ends it there, too.
fn check_tokens(name: &str, model: &Tokenizer, reference: &Tokenizer) -> Result<(), TuningError> {
    let conflicts = model.conflicts(reference);
    let count = conflicts.len();
    if let Some(first) = conflicts.into_iter().next() {
        return Err(TuningError::ReferenceToken {
            reference: name.to_owned(),
            count,
            id: first.id,
            own: first.own,
            there: first.there,
        });
    }
    // Who has no end token learns from conversations alone, which end as their template says.
    let (Ok(own), Ok(others)) = (model.end_id(), reference.end_id()) else {
        return Ok(());
    };
    if reference.end_ids().contains(&own) {
        return Ok(());
    }
    let token = |tokenizer: &Tokenizer, id| tokenizer.token(id).unwrap_or_default();
    Err(TuningError::ReferenceEnd {
        reference: name.to_owned(),
        own: token(model, own),
        others: token(reference, others),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{test_tokenizer, test_tokenizer_ending};

    #[test]
    fn another_end_is_refused_unless_it_is_one_of_several() {
        // Ends with <|im_end|>, and stops at <|end|>, too.
        let several = test_tokenizer();
        let [one, other] = ["<|im_end|>", "<|end|>"].map(test_tokenizer_ending);
        for (model, reference) in [
            (&several, &several),
            (&several, &one),
            (&one, &several),
            (&other, &several),
        ] {
            check_tokens("reference", model, reference).unwrap();
        }
        for (model, reference) in [(&one, &other), (&several, &other)] {
            let error = check_tokens("reference", model, reference).unwrap_err().to_string();
            assert!(
                error.contains("ends an answer with \"<|end|>\", but the model with \"<|im_end|>\""),
                "{error}"
            );
        }
    }
}
