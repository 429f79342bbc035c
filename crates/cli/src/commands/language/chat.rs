//! `posterior chat`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use miette::IntoDiagnostic as _;
use preference::data::{Conversation, Message, Text};
use preference::encode::RowEncoder;
use preference::generate::{Ending, Request, Verdict, generate};

use super::{ChoiceArguments, ModelArguments, WeightsArgument};
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
      posterior chat --model SmolLM2-135M-Instruct.Q4_1.gguf
      posterior chat --model runs/sft/model --temperature 0.7 --top-p 0.9 --system \"You answer in one sentence.\"
  Lines that begin with a slash are for the program: /reset begins anew, /exit (or Ctrl-D) ends.";

/// Talk with a model; answers appear as they are written.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_new_tokens: usize,
    #[command(flatten)]
    weights: WeightsArgument,
    #[command(flatten)]
    choice: ChoiceArguments,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let choice = arguments.choice.choice()?;
    let precision = arguments.weights.precision(context)?;
    let model = arguments.model.open(context)?;
    let (decoder, tokenizer) = (model.decoder.packed(precision), &model.tokenizer);
    let encoder = RowEncoder::new(tokenizer).into_diagnostic()?;
    // An error now, rather than after the first line.
    tokenizer.chat_template(None, false).into_diagnostic()?;
    let begin = || -> Vec<Message> {
        let system = arguments.system.as_deref();
        system.map(|text| Message::new("system", text)).into_iter().collect()
    };
    let interactive = std::io::stdin().is_terminal();
    let mut conversation = begin();
    let mut turn = 0;
    loop {
        if interactive {
            eprint!("> ");
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).into_diagnostic()? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/reset" => {
                conversation = begin();
                context.say("a new conversation");
                continue;
            }
            command if command.starts_with('/') => {
                context.say(format_args!("there is no {command}; there are /reset and /exit"));
                continue;
            }
            said => conversation.push(Message::new("user", said)),
        }
        let given = Text::Messages(Conversation::new(conversation.clone()));
        let request = Request {
            choice: choice.clone(),
            samples: 1,
            max_new_tokens: arguments.max_new_tokens,
            min_new_tokens: 0,
            end: tokenizer.end_ids().iter().copied().collect(),
            batch_size: 1,
            seed: context.seed.unwrap_or(0),
            // Another turn, another answer to the same words.
            first: turn,
        };
        turn += 1;
        let tokens = encoder.prompt(&given).into_diagnostic()?;
        let mut stream = tokenizer.decode_stream(false);
        let (mut answer, mut failure) = (String::new(), None);
        // Nothing is shown that may turn out to be a stop string.
        let mut shown = 0;
        let mut show = |answer: &str, end: usize| {
            print_now(answer.get(shown..end).unwrap_or_default());
            shown = shown.max(end);
        };
        let texts = generate(
            &decoder,
            &[tokens],
            &request,
            &mut |_, token| match stream.push(token) {
                Ok(more) => {
                    answer.push_str(&more);
                    show(&answer, arguments.choice.settled(&answer));
                    match arguments.choice.stops_at(&answer) {
                        Some(_) => Verdict::End,
                        None => Verdict::Continue,
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    Verdict::EndAll
                }
            },
        )
        .into_diagnostic()?;
        if let Some(error) = failure {
            return Err(error).into_diagnostic();
        }
        answer.push_str(&stream.finish().into_diagnostic()?);
        answer.truncate(arguments.choice.stops_at(&answer).unwrap_or(answer.len()));
        show(&answer, answer.len());
        print_now("\n");
        if texts.iter().any(|text| text.ending == Ending::Length) {
            context.say(format_args!(
                "(cut after {} tokens; --max-new-tokens allows more)",
                arguments.max_new_tokens
            ));
        }
        conversation.push(Message::new("assistant", answer));
    }
}

/// A reader that went away is not an error of the conversation.
fn print_now(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
