//! Any program as a judge: it reads a line of JSON and writes a number, for as long as lines come.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::{JudgeError, Judged};
use crate::data::{Message, Text};

/// Lines of standard error that an error message repeats.
const SAID: usize = 10;

/// A program that is started at the first response and lives as long as it is asked.
///
/// For each response it reads `{"prompt": .., "response": ".."}` from standard input, where the prompt is text or a list of
/// messages, as in the data, and writes the reward to standard output: a number, on a line of its own, in the order of the
/// responses.
#[derive(Debug)]
pub struct Program {
    command: String,
    timeout: Duration,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Taken by whoever writes, and given back.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Arc<Mutex<VecDeque<String>>>,
}

#[derive(Serialize)]
struct Line<'a> {
    prompt: Prompt<'a>,
    response: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Prompt<'a> {
    Text(&'a str),
    Messages(&'a [Message]),
}

impl<'a> From<&'a Text> for Prompt<'a> {
    fn from(text: &'a Text) -> Self {
        match text {
            Text::Plain(text) => Self::Text(text),
            Text::Messages(conversation) => Self::Messages(&conversation.messages),
        }
    }
}

impl Program {
    /// The program that `sh -c command` starts, which may take `timeout` for a response.
    #[must_use]
    pub fn new(command: impl Into<String>, timeout: Duration) -> Self {
        Self {
            command: command.into(),
            timeout,
            running: None,
        }
    }

    /// The reward of each response to each prompt. A program that fails is ended, and started anew the next time.
    pub(super) fn rewards(&mut self, judged: &[Judged<'_>]) -> Result<Vec<Vec<f64>>, JudgeError> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&self.command)?,
        };
        let mut lines = String::new();
        for judged in judged {
            for response in judged.texts {
                let line = Line {
                    prompt: judged.prompt.into(),
                    response,
                };
                lines += &serde_json::to_string(&line).unwrap_or_else(|error| unreachable!("texts are JSON: {error}"));
                lines.push('\n');
            }
        }
        let input = running.input.take();
        // Written beside the reading, so that neither waits for the other when pipes are full.
        let writer = thread::spawn(move || {
            let mut input = input?;
            // A program that is gone is noticed where its answers are read.
            let written = input.write_all(lines.as_bytes()).and_then(|()| input.flush());
            written.is_ok().then_some(input)
        });
        let mut rewards = Vec::with_capacity(judged.len());
        for judged in judged {
            let own: Result<_, _> = judged.texts.iter().map(|_| self.read(&mut running)).collect();
            rewards.push(own?);
        }
        running.input = writer.join().ok().flatten();
        self.running = Some(running);
        Ok(rewards)
    }

    fn read(&self, running: &mut Running) -> Result<f64, JudgeError> {
        let command = self.command.clone();
        match running.lines.recv_timeout(self.timeout) {
            Ok(line) => match line.trim().parse::<f64>() {
                Ok(reward) if reward.is_finite() => Ok(reward),
                _ => Err(JudgeError::Rubbish {
                    command,
                    line,
                    said: running.said(),
                }),
            },
            Err(RecvTimeoutError::Timeout) => Err(JudgeError::TimeOut {
                command,
                timeout: self.timeout,
                said: running.said(),
            }),
            Err(RecvTimeoutError::Disconnected) => {
                let how = match running.ended() {
                    Some(status) => format!("ended with {status}"),
                    None => "closed its output".to_owned(),
                };
                Err(JudgeError::Ended {
                    command,
                    how,
                    said: running.said(),
                })
            }
        }
    }
}

impl Running {
    fn start(command: &str) -> Result<Self, JudgeError> {
        let failed = |cause| JudgeError::Start {
            command: command.to_owned(),
            cause,
        };
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n') {
                    let Ok(line) = line else { break };
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        break;
                    }
                }
            });
        }
        let said = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(errors) = child.stderr.take() {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    if said.len() == SAID {
                        said.pop_front();
                    }
                    said.push_back(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        Ok(Self {
            input: child.stdin.take(),
            child,
            lines,
            said,
        })
    }

    /// How it ended, if it ends within a moment.
    fn ended(&mut self) -> Option<std::process::ExitStatus> {
        for _ in 0..50 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// The last lines of standard error, as an error message ends with them.
    fn said(&self) -> String {
        // What it says last may still be on its way.
        thread::sleep(Duration::from_millis(50));
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_empty() {
            return String::new();
        }
        let lines: Vec<String> = said.iter().map(|line| format!("\n    {line}")).collect();
        format!("; it said:{}", lines.concat())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its input ends here, by which a program knows that it is done; one that goes on is ended.
        drop(self.input.take());
        if self.ended().is_none() {
            // It may have ended just now.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Ranked;

    fn rewards(program: &mut Program, texts: &[&str]) -> Result<Vec<f64>, JudgeError> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let judged = Judged {
            prompt: &Text::Plain("a \"prompt\"".to_owned()),
            tokens: &Ranked::default(),
            texts: &texts,
        };
        program.rewards(&[judged]).map(|rewards| rewards.concat())
    }

    fn program(command: &str, milliseconds: u64) -> Program {
        Program::new(command, Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_line_each_way_as_long_as_lines_come() {
        // The length of a line, of which all but the response is the same.
        let mut counts = program("while read -r line; do echo ${#line}; done", 10_000);
        let first = rewards(&mut counts, &["", "xy", "x\ny"]).unwrap();
        assert_eq!([first[1] - first[0], first[2] - first[0]], [2.0, 4.0]);
        // It is still the same process.
        let mut remembers = program("n=0; while read -r line; do n=$((n + 1)); echo $n; done", 10_000);
        assert_eq!(rewards(&mut remembers, &["a", "b"]).unwrap(), [1.0, 2.0]);
        assert_eq!(rewards(&mut remembers, &["c"]).unwrap(), [3.0]);
        // More than pipes hold, both ways at once.
        let long = "long ".repeat(500);
        let many = vec![long.as_str(); 400];
        assert_eq!(rewards(&mut remembers, &many).unwrap().len(), 400);
    }

    #[test]
    fn a_program_that_fails_is_named_with_what_it_said() {
        let fails = |command: &str, milliseconds| {
            let mut program = program(command, milliseconds);
            let error = rewards(&mut program, &["a"]).unwrap_err().to_string();
            assert!(error.contains(command), "{error}");
            error
        };
        let hangs = fails("sleep 60", 100);
        assert!(
            hangs.contains("within 0.1 s") && hangs.contains("reward-timeout"),
            "{hangs}"
        );
        let crashes = fails("echo 'no such file' >&2; exit 3", 10_000);
        assert!(
            crashes.contains("exit status: 3") && crashes.contains("no such file"),
            "{crashes}"
        );
        let babbles = fails("echo hello; cat > /dev/null", 10_000);
        assert!(
            babbles.contains("\"hello\"") && babbles.contains("no finite number"),
            "{babbles}"
        );
        for number in ["NaN", "inf", ""] {
            let error = fails(&format!("echo {number}; cat > /dev/null"), 10_000);
            assert!(error.contains("no finite number"), "{error}");
        }
        let missing = fails("no-such-program-anywhere", 10_000);
        assert!(missing.contains("ended with"), "{missing}");
    }

    #[test]
    fn after_a_failure_it_is_started_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let command = format!(
            "if [ -e {0} ]; then echo 7; cat > /dev/null; else touch {0}; exit 1; fi",
            mark.display()
        );
        let mut program = program(&command, 10_000);
        assert!(rewards(&mut program, &["a"]).is_err());
        assert_eq!(rewards(&mut program, &["a"]).unwrap(), [7.0]);
    }
}
