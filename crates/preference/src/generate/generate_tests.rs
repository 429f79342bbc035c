use burn::tensor::Device;
use nn::decoder::{Decoder, DecoderConfig};
use ops::{Forest, Precision};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;

/// A random model whose next token depends on all before.
fn decoder(window: &str) -> Decoder {
    let text = format!(
        r#"{{"model_type": "mistral", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "sliding_window": {window}}}"#
    );
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut make = |parameter: &nn::decoder::parameters::Parameter| {
        let count: usize = parameter.shape.iter().product();
        Ok::<_, GenerateError>((0..count).map(|_| (rng.random::<f32>() - 0.5) * 2.0).collect())
    };
    Decoder::build(&DecoderConfig::from_json(&text).unwrap(), &Device::flex(), &mut make).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    let long = (0..70).map(|i| (i * 7 % 39) as u32).collect();
    vec![vec![1, 2, 3], vec![5], long, vec![30, 8, 9, 2, 2]]
}

fn request() -> Request {
    Request {
        choice: Choice::default(),
        samples: 3,
        max_new_tokens: 40,
        min_new_tokens: 0,
        end: vec![0],
        batch_size: 64,
        seed: 7,
        first: 0,
    }
}

fn draw(decoder: &Decoder, prompts: &[Vec<u32>], request: &Request) -> Vec<Text> {
    let decoder = decoder.clone().packed(Precision::Single);
    generate(&decoder, prompts, request, &mut |_, _| Verdict::Continue).unwrap()
}

#[test]
fn texts_do_not_depend_on_their_company() {
    let decoder = decoder("null");
    let together = draw(&decoder, &prompts(), &request());
    assert_eq!(together.len(), 12);
    let lengths: Vec<usize> = together.iter().map(|text| text.tokens.len()).collect();
    assert!(lengths.iter().min() != lengths.iter().max(), "{lengths:?}");
    for batch_size in [1, 5] {
        let apart = draw(
            &decoder,
            &prompts(),
            &Request {
                batch_size,
                ..request()
            },
        );
        assert_eq!(apart, together);
    }
    let later = draw(&decoder, &prompts()[2..], &Request { first: 2, ..request() });
    let tokens = |texts: &[Text]| texts.iter().map(|text| text.tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(&later), tokens(&together[6..]));
    assert_ne!(together[0].tokens, together[1].tokens);
    assert_ne!(
        tokens(&draw(&decoder, &prompts(), &Request { seed: 8, ..request() })),
        tokens(&together)
    );
}

#[test]
fn the_cache_gives_what_reading_everything_again_gives() {
    for window in ["null", "8"] {
        let decoder = decoder(window);
        for text in draw(&decoder, &prompts(), &request()) {
            let prompt = &prompts()[text.prompt];
            let all: Vec<u32> = prompt.iter().chain(&text.tokens).copied().collect();
            let hidden = decoder.hidden(&all, &Forest::sequences([all.len()]));
            let rows: Vec<usize> = (prompt.len() - 1..all.len() - 1).collect();
            let found = decoder.token_log_prob(hidden, &rows, text.tokens.as_slice().into(), 1.0);
            let expected: Vec<f32> = found.log_prob.into_data().try_into_vec().unwrap();
            for (found, expected) in text.log_probs.iter().zip(&expected) {
                assert!(
                    (found - f64::from(*expected)).abs() < 1e-4,
                    "{found} instead of {expected}"
                );
            }
        }
    }
}

#[test]
fn texts_end_when_they_should() {
    let decoder = decoder("null");
    let texts = draw(&decoder, &prompts(), &request());
    for text in &texts {
        let at = text.tokens.iter().position(|&token| token == 0);
        match text.ending {
            Ending::EndToken => assert_eq!(at, Some(text.tokens.len() - 1)),
            Ending::Length => assert_eq!((at, text.tokens.len()), (None, 40)),
            Ending::Stopped => panic!("nobody stopped {text:?}"),
        }
    }
    let long = draw(
        &decoder,
        &prompts(),
        &Request {
            min_new_tokens: 39,
            ..request()
        },
    );
    assert!(long.iter().all(|text| text.tokens.len() >= 40));
    // One text is stopped after three tokens, and later everything.
    let mut seen = 0;
    let packed = decoder.packed(Precision::Single);
    let texts = generate(&packed, &prompts(), &request(), &mut |text, token| {
        assert_eq!(text.tokens.last(), Some(&token));
        seen += 1;
        match text.tokens.len() {
            3 if text.prompt == 1 => Verdict::End,
            6 => Verdict::EndAll,
            _ => Verdict::Continue,
        }
    })
    .unwrap();
    assert_eq!(texts.len(), 12);
    let tokens = texts.iter().map(|text| text.tokens.len());
    assert_eq!(tokens.clone().sum::<usize>(), seen);
    assert!(tokens.max() == Some(6));
    let second = texts.iter().filter(|text| text.prompt == 1);
    assert!(second.clone().all(|text| text.tokens.len() <= 3));
    assert!(
        second
            .clone()
            .any(|text| text.ending == Ending::Stopped && text.tokens.len() == 3)
    );
}

#[test]
fn prompts_that_cannot_be_answered_are_named() {
    let decoder = decoder("null").packed(Precision::Single);
    let refuse =
        |prompt: Vec<u32>| generate(&decoder, &[vec![1], prompt], &request(), &mut |_, _| Verdict::End).unwrap_err();
    assert_eq!(refuse(vec![]), GenerateError::EmptyPrompt(1));
    assert!(matches!(
        refuse(vec![40]),
        GenerateError::Token {
            prompt: 1,
            token: 40,
            vocabulary: 40
        }
    ));
}
