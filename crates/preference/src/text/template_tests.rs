use proptest::prelude::*;
use serde_json::json;

use super::*;

fn render(source: &str, messages: &[Json]) -> Result<String, TextError> {
    let clock = || Moment {
        seconds: 1_795_464_000,
        microseconds: 0,
    };
    ChatTemplate::with_clock(source, "test.jinja", clock)?.render(
        &Conversation::new(messages),
        &[("bos_token", "<s>"), ("eos_token", "</s>")],
    )
}

fn hello() -> Vec<Json> {
    vec![
        json!({"role": "user", "content": "Hi"}),
        json!({"role": "assistant", "content": "Hello!"}),
    ]
}

// Expected texts: transformers 5.23.0, `render_jinja_template([messages], chat_template=source, bos_token="<s>",
// eos_token="</s>")`, jinja2 3.1.6.
#[test]
fn templates_render_as_in_transformers() {
    let cases = [
        (
            "{% for m in messages %}\n  {% if m.role %}\n{{ m.role }}: {{ m.content }}\n  {% endif %}\n{% endfor %}\n",
            "user: Hi\nassistant: Hello!\n",
        ),
        ("a\n", "a"),
        ("a\n\n", "a\n"),
        (
            "{{ bos_token }}{{ nothing }}{{ messages[0].name }}|{{ tools }}|{{ add_generation_prompt }}",
            "<s>|None|False",
        ),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
            "Hello!",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n }}",
            "8",
        ),
        (
            "{{ messages[::-1][0].content }} {{ messages[0]['content'][1:] }} {{ messages | map(attribute='role') | join(', ') }}",
            "Hello! i user, assistant",
        ),
        ("{{ strftime_now('%d %b %Y') }}", "23 Nov 2026"),
        (
            "{% for m in messages %}{{ loop.index0 }}{{ loop.previtem.role if loop.previtem is defined }}{% endfor %}",
            "01user",
        ),
        (
            "{% macro f(x, y='b') %}{{ x }}{{ y }}{% endmacro %}{{ f('a') }}{{ f(1, y=2) }}",
            "ab12",
        ),
        (
            "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
            "1",
        ),
        (
            "{%- if messages[0].tool_calls is defined %}x{% else %}y{% endif -%}  ",
            "y",
        ),
        (
            "{{ (messages[0] | tojson) ~ messages[0].get('x', 3) }}",
            "{\"role\": \"user\", \"content\": \"Hi\"}3",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, &hello()).unwrap(), expected, "{source}");
    }
}

#[test]
fn nulls_are_left_out_and_reasoning_is_found() {
    let messages = [json!({"role": "assistant", "content": null, "thinking": "hm"})];
    let text = render(
        "{{ messages[0].content is defined }} {{ messages[0].reasoning_content }} {{ messages[0].thinking }}",
        &messages,
    );
    assert_eq!(text.unwrap(), "False hm hm");
}

#[test]
fn a_method_wins_over_a_key_of_its_name() {
    let messages = [json!({"role": "user", "content": {"items": 3, "get": 4}})];
    let text = render(
        "{{ messages[0].content.items() | list }}{{ messages[0].content.get('get') }}",
        &messages,
    );
    assert_eq!(text.unwrap(), "[('items', 3), ('get', 4)]4");
}

#[test]
fn generation_blocks_are_found() {
    let source = "{% for m in messages %}\n{{ m.role }}:\n{%- if m.role == 'assistant' -%}\n  {% generation %}\n\
                  {{ m.content }}é\n  {% endgeneration %}\n{% else %}{{ m.content }}{% endif %};{% endfor %}";
    let template = ChatTemplate::new(source, "test.jinja").unwrap();
    assert!(template.has_generation_blocks());
    let messages = [hello(), hello()].concat();
    let rendered = template.render_with_spans(&Conversation::new(&messages), &[]).unwrap();
    assert_eq!(
        rendered.text,
        "user:Hi;assistant:Hello!é\n;user:Hi;assistant:Hello!é\n;"
    );
    let found: Vec<&str> = rendered
        .generated
        .iter()
        .map(|range| &rendered.text[range.clone()])
        .collect();
    assert_eq!(found, ["Hello!é\n", "Hello!é\n"]);

    let scoped = "{% set ns = namespace(n=0) %}{% set y = 1 %}{% generation %}{% set ns.n = 5 %}{% set y = 2 %}{{ y }}\
                  {% endgeneration %}{{ ns.n }}{{ y }}";
    assert_eq!(render(scoped, &hello()).unwrap(), "251");

    let trimming = "{% set x %}{% generation %} {{ messages[0].content }}{% endgeneration %}{% endset %}{{ x | trim }}";
    let template = ChatTemplate::new(trimming, "test.jinja").unwrap();
    assert_eq!(template.render(&Conversation::new(&messages), &[]).unwrap(), "Hi");
    let error = template
        .render_with_spans(&Conversation::new(&messages), &[])
        .unwrap_err();
    assert!(error.to_string().contains("cannot be found"), "{error}");
}

#[test]
fn faults_name_the_line() {
    let text = |source: &str| render(source, &hello()).unwrap_err().to_string();
    assert_eq!(
        text("a\n{% if messages %}\n{{ raise_exception('Roles must alternate') }}\n{% endif %}"),
        "test.jinja, line 3: Roles must alternate"
    );
    assert!(text("a\n{% nonsense %}").starts_with("test.jinja, line 2: syntax error: unknown statement"));
    assert!(text("\n\n{{ nothing.more }}").starts_with("test.jinja, line 3: "));
    assert!(text("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}").contains("fuel"));
    assert!(matches!(render("a", &[]).unwrap_err(), TextError::Messages { .. }));
    assert!(matches!(
        render("a", &[json!("Hi")]).unwrap_err(),
        TextError::Messages { .. }
    ));
}

proptest! {
    #[test]
    fn arbitrary_templates_never_panic(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("{%"), Just("-%}"), Just("%}"), Just("{{"), Just("}}"), Just("generation"), Just("endgeneration"),
                Just(" if "), Just("endif"), Just("for m in messages"), Just("endfor"), Just("m.content"), Just("|"),
                Just("tojson"), Just("'"), Just("+"), Just("\n"), Just("é"), Just("(indent=-1)"), Just(".split()"),
            ],
            0..24,
        ),
    ) {
        if let Ok(template) = ChatTemplate::new(&pieces.concat(), "arbitrary") {
            let _ = template.render_with_spans(&Conversation::new(&hello()), &[]);
        }
    }

    #[test]
    fn translating_leaves_other_text_alone(text in "([a-z {}%\n-]|\\{% |generation|%\\}){0,30}") {
        let (translated, found) = translate(&text);
        if !found {
            prop_assert_eq!(translated, text);
        }
    }
}
