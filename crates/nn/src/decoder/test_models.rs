//! Small decoders with random weights, for tests.

use burn::tensor::{Device, TensorData};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Decoder, DecoderConfig};

pub(crate) const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "attention_bias": true}"#;
pub(crate) const QWEN3: &str = r#"{"model_type": "qwen3", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 4,
    "tie_word_embeddings": true}"#;
pub(crate) const GPT2: &str =
    r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}"#;

/// A decoder of random weights on `device`.
pub(crate) fn random(text: &str, device: &Device) -> Decoder {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let config = DecoderConfig::from_json(text).unwrap();
    let mut make = |parameter: &super::parameters::Parameter| {
        let count = parameter.shape.iter().product();
        Ok::<_, std::convert::Infallible>((0..count).map(|_| rng.random::<f32>() - 0.5).collect())
    };
    Decoder::build(&config, device, &mut make).unwrap_or_else(|never| match never {})
}

/// The same with `B` of every adapter drawn from U(-0.5, 0.5) instead of 0.
pub(crate) fn with_live_adapters(mut decoder: Decoder) -> Decoder {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    decoder
        .for_each_projection(|_, projection| -> Result<(), std::convert::Infallible> {
            if let Some(adapter) = &mut projection.adapter {
                let old = adapter.b.val();
                let values = (0..old.dims().iter().product::<usize>()).map(|_| rng.random::<f32>() - 0.5);
                let data = TensorData::new(values.collect::<Vec<f32>>(), old.shape());
                adapter.b = burn::module::Param::from_data(data, &old.device());
            }
            Ok(())
        })
        .unwrap_or_else(|never| match never {});
    decoder
}

/// The logits of five tokens.
pub(crate) fn logits(decoder: &Decoder) -> Vec<f32> {
    let tokens = [3, 1, 4, 1, 5];
    let hidden = decoder.hidden(&tokens, &ops::Forest::sequences([5]));
    decoder.logits(hidden).into_data().try_into_vec().unwrap()
}
