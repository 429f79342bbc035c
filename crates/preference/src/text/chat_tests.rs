use proptest::prelude::*;
use serde_json::json;

use super::super::testing::{chatml, llama};
use super::*;

const END: u32 = 262;

fn user(text: &str) -> Json {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Json {
    json!({"role": "assistant", "content": text})
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "test.jinja").unwrap()
}

/// The learned stretches of a trace, as texts.
fn learned(tokenizer: &Tokenizer, trace: &Trace) -> Vec<String> {
    assert_eq!(trace.ids.len(), trace.learned.len());
    let stretches = trace.learned.chunk_by(|a, b| a == b);
    let mut at = 0;
    let mut texts = Vec::new();
    for stretch in stretches {
        let ids = &trace.ids[at..at + stretch.len()];
        at += stretch.len();
        if stretch[0] {
            texts.push(tokenizer.decode(ids, true).unwrap());
        }
    }
    texts
}

#[test]
fn the_boundary_between_prompt_and_completion_holds() {
    let tokenizer = chatml();
    let encoder = Encoder::new(&tokenizer);
    // "ab" is one token, but not across the boundary.
    let example = encoder.completion("a", "b").unwrap();
    assert_eq!((example.prompt, example.response), (vec![97], vec![98, END]));
    // Where nothing merges across, the ids are those of the whole text.
    let ranked = encoder.completions("x", &[" ab", "", "ab"]).unwrap();
    assert_eq!(ranked.prompt, [120]);
    assert_eq!(ranked.responses, [vec![259, END], vec![END], vec![256, END]]);

    let tokenizer = llama();
    let encoder = Encoder::new(&tokenizer);
    // No space comes in where there is none, and the end token that the tokenizer adds does not end the prompt.
    let example = encoder.completion("a", "b").unwrap();
    assert_eq!((example.prompt, example.response), (vec![1, 263], vec![261, 2]));
    let example = encoder.completion("a", " ab").unwrap();
    assert_eq!((example.prompt, example.response), (vec![1, 263], vec![264, 2]));
    assert_eq!(encoder.text("a").unwrap(), Trace::whole(vec![1, 263, 2]));
}

#[test]
fn the_end_token_is_there_once() {
    let tokenizer = chatml();
    let encoder = Encoder::new(&tokenizer);
    for (completion, response) in [
        ("b", vec![98, END]),
        ("b<|im_end|>", vec![98, END]),
        ("b<|im_end|><|im_end|>", vec![98, END]),
        ("b<|end|>", vec![98, 260]),
        ("<|im_end|>b", vec![END, 98, END]),
    ] {
        assert_eq!(
            encoder.completion("x", completion).unwrap().response,
            response,
            "{completion}"
        );
    }
    let trace = Trace::from(encoder.completion("x", "b").unwrap());
    assert_eq!(
        (trace.ids, trace.learned),
        (vec![120, 98, END], vec![false, true, true])
    );
}

#[test]
fn a_conversation_becomes_prompt_and_response() {
    let tokenizer = chatml();
    let encoder = Encoder::new(&tokenizer);
    let messages = [user("x")];
    let prompt = Conversation::new(&messages);
    let ids = |text: &str| tokenizer.encode(text, false).unwrap();
    let example = encoder.chat(&prompt, &[assistant("ab")]).unwrap();
    assert_eq!(
        example.prompt,
        ids("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n")
    );
    assert_eq!(example.prompt, encoder.chat_prompt(&prompt).unwrap());
    assert_eq!(example.response, [256, END]);
    let trailing = encoder.clone().with_trailing_text(true);
    assert_eq!(
        trailing.chat(&prompt, &[assistant("ab")]).unwrap().response,
        [256, END, 10]
    );
    // The answer's line break would merge with the prompt's into one token.
    assert_eq!(ids("\n\n"), [258]);
    let ranked = encoder
        .chats(&prompt, &[&[assistant("\nb")], &[assistant("b")]])
        .unwrap();
    assert_eq!(ranked.prompt, example.prompt);
    assert_eq!(ranked.responses, [vec![10, 98, END], vec![98, END]]);
    // Several messages answer.
    let example = encoder
        .chat(&prompt, &[assistant("a"), user("y"), assistant("b")])
        .unwrap();
    let text = tokenizer.decode(&example.response, true).unwrap();
    assert_eq!(
        text,
        "a<|im_end|>\n<|im_start|>user\ny<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    );
    // A template that ends nothing.
    let open = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let example = encoder
        .clone()
        .with_template(template(open))
        .chat(&prompt, &[assistant("b")])
        .unwrap();
    assert_eq!(example.response, [98, u32::from(b';'), END]);
}

#[test]
fn a_prompt_rendered_otherwise_is_refused_kept_or_shortened() {
    let tokenizer = chatml();
    let thinking = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ ':' ~ m.content ~ '<|im_end|>' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|im_start|>assistant:(think)' }}{% endif %}";
    let encoder = Encoder::new(&tokenizer).with_template(template(thinking));
    let messages = [user("x")];
    let prompt = Conversation::new(&messages);
    let error = encoder.chat(&prompt, &[assistant("b")]).unwrap_err();
    assert!(
        matches!(&error, TextError::Diverged { prompt, .. } if prompt == "(think)"),
        "{error}"
    );
    let decode = |example: &Example| {
        (
            tokenizer.decode(&example.prompt, true).unwrap(),
            tokenizer.decode(&example.response, true).unwrap(),
        )
    };
    let kept = encoder.clone().with_divergence(Divergence::KeepPrompt);
    let (before, after) = decode(&kept.chat(&prompt, &[assistant("b")]).unwrap());
    assert_eq!(
        (before.as_str(), after.as_str()),
        (
            "<|im_start|>user:x<|im_end|><|im_start|>assistant:(think)",
            "b<|im_end|>"
        )
    );
    let shortened = encoder.with_divergence(Divergence::ShortenPrompt);
    let (before, after) = decode(&shortened.chat(&prompt, &[assistant("b")]).unwrap());
    assert_eq!(
        (before.as_str(), after.as_str()),
        ("<|im_start|>user:x<|im_end|><|im_start|>assistant:", "b<|im_end|>")
    );
    // All responses follow one prompt: it ends at the first difference of any of them.
    let ranked = shortened
        .chats(&prompt, &[&[assistant("(thi")], &[assistant("b")]])
        .unwrap();
    assert_eq!(tokenizer.decode(&ranked.prompt, true).unwrap(), before);
    assert_eq!(tokenizer.decode(&ranked.responses[0], true).unwrap(), "(thi<|im_end|>");
    // A difference in what the user said cannot be mended.
    let counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    for divergence in [Divergence::Refuse, Divergence::KeepPrompt, Divergence::ShortenPrompt] {
        let encoder = Encoder::new(&tokenizer)
            .with_template(template(counting))
            .with_divergence(divergence);
        assert!(matches!(
            encoder.chat(&prompt, &[assistant("b")]),
            Err(TextError::Diverged { .. })
        ));
    }
}

#[test]
fn assistant_turns_are_learned_with_their_end() {
    let tokenizer = chatml();
    let marked = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}\
                  {% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}\
                  {% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let messages = [user("x"), assistant("ab"), user("é"), assistant("\nb")];
    let conversation = Conversation::new(&messages);
    let by_rendering = Encoder::new(&tokenizer);
    let by_blocks = by_rendering.clone().with_template(template(marked));
    for encoder in [&by_rendering, &by_blocks] {
        let trace = encoder.messages(&conversation, Trained::Assistant).unwrap();
        assert_eq!(learned(&tokenizer, &trace), ["ab<|im_end|>", "\nb<|im_end|>"]);
        let last = encoder.messages(&conversation, Trained::LastAnswer).unwrap();
        assert_eq!(learned(&tokenizer, &last), ["\nb<|im_end|>"]);
        let all = encoder.messages(&conversation, Trained::Everything).unwrap();
        assert_eq!(all.learned_tokens(), all.ids.len());
        // The whole text is the same, but for the token that would reach across the boundary.
        assert_eq!(
            tokenizer.decode(&trace.ids, true).unwrap(),
            tokenizer.decode(&all.ids, true).unwrap()
        );
        assert_eq!(trace.ids.len(), all.ids.len() + 1);
        let error = encoder
            .messages(&Conversation::new(&messages[..1]), Trained::Assistant)
            .unwrap_err();
        assert!(matches!(error, TextError::NothingToLearn { .. }), "{error}");
        let error = encoder
            .messages(&Conversation::new(&messages[..3]), Trained::LastAnswer)
            .unwrap_err();
        assert!(matches!(error, TextError::NothingToLearn { .. }), "{error}");
    }
    let trailing = by_rendering
        .with_trailing_text(true)
        .messages(&conversation, Trained::Assistant)
        .unwrap();
    assert_eq!(learned(&tokenizer, &trailing), ["ab<|im_end|>\n", "\nb<|im_end|>\n"]);
    let unended = "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    let trace = Encoder::new(&tokenizer)
        .with_template(template(unended))
        .messages(&Conversation::new(&messages[..2]), Trained::Assistant);
    assert_eq!(learned(&tokenizer, &trace.unwrap()), ["x", "ab<|im_end|>"]);
}

#[test]
fn without_a_template_messages_are_an_error() {
    let tokenizer = llama();
    let messages = [user("x")];
    let error = Encoder::new(&tokenizer)
        .chat_prompt(&Conversation::new(&messages))
        .unwrap_err();
    assert!(
        error.to_string().contains("has no chat template; use plain text"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn prompt_and_response_are_what_was_given(
        prompt in "[ab \né]{0,12}|\\PC{0,8}", completion in "[ab \né]{0,12}|\\PC{0,8}",
    ) {
        let texts = [chatml(), llama()];
        for tokenizer in &texts {
            let example = Encoder::new(tokenizer).completion(&prompt, &completion).unwrap();
            prop_assert_eq!(&example.prompt, &tokenizer.encode_prompt(&prompt).unwrap());
            prop_assert_eq!(example.response.last(), Some(&tokenizer.end_id().unwrap()));
            let whole = [example.prompt, example.response].concat();
            prop_assert_eq!(tokenizer.decode(&whole, false).unwrap(), format!("{prompt}{completion}"));
        }
    }

    #[test]
    fn turns_are_learned_whatever_they_say(contents in proptest::collection::vec("[ab \n]{0,6}|\\PC{0,5}", 2..7)) {
        let tokenizer = chatml();
        let messages: Vec<Json> = contents
            .iter()
            .enumerate()
            .map(|(at, text)| if at % 2 == 0 { user(text) } else { assistant(text) })
            .collect();
        let trace = Encoder::new(&tokenizer).messages(&Conversation::new(&messages), Trained::Assistant).unwrap();
        let expected: Vec<String> = contents.iter().skip(1).step_by(2).map(|text| format!("{text}<|im_end|>")).collect();
        prop_assert_eq!(learned(&tokenizer, &trace), expected);
    }
}
