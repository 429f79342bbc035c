//! The program `posterior`: arguments in, the library crates called, words and files out.

mod commands;
mod device;
mod input;
mod output;
mod page;
mod plot;
mod settings;
mod spectrum_file;

use clap::{Parser, Subcommand};

use device::DeviceName;
use output::{Context, Format};

#[global_allocator]
static MEMORY: ops::Memory = ops::Memory;

/// Train, sample and align generative models, and know exactly how wrong the sampler is.
#[derive(Debug, Parser)]
#[command(name = "posterior", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every command takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// What standard output carries: text for people, or one JSON document and nothing else.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print less: errors only (progress goes too).
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Seed of everything random [default: the run's own, or 0].
    #[arg(long, global = true, value_name = "N")]
    seed: Option<u64>,
    /// Threads to compute with; results do not depend on it [default: all cores].
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where networks compute: cpu, cuda, or cuda:N, the NVIDIA card of that number (in a build with CUDA).
    #[arg(long, global = true, value_name = "DEVICE", default_value_t = DeviceName::Cpu)]
    device: DeviceName,
}

#[derive(Debug, Subcommand)]
enum Command {
    Audit(Box<commands::audit::Arguments>),
    Chat(commands::language::chat::Arguments),
    Convert(commands::convert::Arguments),
    Demo(commands::demo::Arguments),
    Frontier(Box<commands::frontier::Arguments>),
    Diffusion(commands::diffusion::Arguments),
    Generate(commands::language::generate::Arguments),
    Inspect(commands::language::inspect::Arguments),
    Rank(commands::rank::Arguments),
    Report(commands::report::Arguments),
    Score(commands::language::score::Arguments),
    Sft(Box<commands::sft::Arguments>),
    Reward(Box<commands::reward::Arguments>),
    Dpo(Box<commands::dpo::Arguments>),
    Ppo(Box<commands::ppo::Arguments>),
    Solve(commands::solve::Arguments),
}

/// As much as a program's first thread has.
const STACK: usize = 8 << 20;

fn main() -> std::process::ExitCode {
    ops::Memory::configure();
    let cli = Cli::parse();
    let Global {
        format,
        quiet,
        verbose,
        seed,
        threads,
        device,
    } = cli.global;
    let threads = threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK);
    if let Err(error) = pool.build_global() {
        eprintln!("threads cannot be started: {error}; fewer may do, with --threads");
        return std::process::ExitCode::FAILURE;
    }
    // The command runs on one of the threads that compute: from outside, each of its thousands of small operations would
    // have to wake them and be woken by them.
    let result = rayon::scope(|_| {
        let context = Context {
            format,
            quiet,
            verbose,
            seed,
            device: device.open()?,
        };
        run(cli.command, &context)
    });
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("{report:?}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command, context: &Context) -> miette::Result<()> {
    match command {
        Command::Audit(arguments) => commands::audit::run(&arguments, context),
        Command::Chat(arguments) => commands::language::chat::run(&arguments, context),
        Command::Convert(arguments) => commands::convert::run(&arguments, context),
        Command::Demo(arguments) => commands::demo::run(&arguments, context),
        Command::Frontier(arguments) => commands::frontier::run(&arguments, context),
        Command::Diffusion(arguments) => commands::diffusion::run(&arguments, context),
        Command::Generate(arguments) => commands::language::generate::run(&arguments, context),
        Command::Inspect(arguments) => commands::language::inspect::run(&arguments, context),
        Command::Rank(arguments) => commands::rank::run(&arguments, context),
        Command::Report(arguments) => commands::report::run(&arguments, context),
        Command::Score(arguments) => commands::language::score::run(&arguments, context),
        Command::Sft(arguments) => commands::sft::run(&arguments, context),
        Command::Reward(arguments) => commands::reward::run(&arguments, context),
        Command::Dpo(arguments) => commands::dpo::run(&arguments, context),
        Command::Ppo(arguments) => commands::ppo::run(&arguments, context),
        Command::Solve(arguments) => commands::solve::run(&arguments, context),
    }
}
