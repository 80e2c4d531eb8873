//! Whole programs as users run them. An operation is one file of the source tree; of the build it is the whole build.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::{RunContext, Workload};
use crate::area::Area;
use crate::process;
use crate::stopwatch::Stopwatch;

pub(super) fn workloads() -> Vec<Workload> {
    let one = |name, program, data: fn(&Area) -> io::Result<()>, run| Workload {
        program: Some(program),
        ..Workload::new(name, None, data, run)
    };
    vec![
        one("untar a source tree", "tar", Area::checkout, untar),
        one("git status", "git", Area::checkout, git_status),
        one("cp -a", "cp", Area::checkout, copy),
        one("rsync -a, nothing to do", "rsync", Area::checkout, rsync),
        one("rm -rf", "rm", Area::checkout, remove),
        one("cargo build", "cargo", super::nothing, build),
    ]
}

/// Times a program that processes all files of the checkout.
fn timed(
    command: &mut Command,
    context: &RunContext<'_>,
    watch: &mut Stopwatch<'_>,
) -> io::Result<()> {
    let files = context.area.checkout_files()?;
    watch.time(|| process::run(command).map(|_| files))
}

fn unpack(context: &RunContext<'_>) -> io::Result<Command> {
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(context.area.archive()?).arg("-C").arg(context.scratch);
    Ok(tar)
}

fn untar(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    timed(&mut unpack(context)?, context, watch)
}

fn git_status(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    let mut git = process::git(&context.root.join("checkout"));
    // All contenders share the index: a refresh by one would favour the next.
    git.arg("--no-optional-locks").args(["status", "--short"]);
    let output = process::run(&mut git)?;
    if !output.stdout.is_empty() {
        return Err(io::Error::other("git finds changes where there are none"));
    }
    timed(&mut git, context, watch)
}

fn copy_to(context: &RunContext<'_>, target: &Path) -> Command {
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(context.root.join("checkout")).arg(target);
    cp
}

fn copy(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    timed(&mut copy_to(context, &context.scratch.join("copy")), context, watch)
}

fn rsync(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    process::run(&mut copy_to(context, &context.scratch.join("copy")))?;
    let mut rsync = Command::new("rsync");
    rsync.args(["-a", "--itemize-changes", "--"]);
    // A trailing slash: rsync copies the contents.
    rsync.arg(context.root.join("checkout").join("")).arg(context.scratch.join("copy").join(""));
    let output = process::run(&mut rsync)?;
    if !output.stdout.is_empty() {
        return Err(io::Error::other("rsync finds changes where there are none"));
    }
    timed(&mut rsync, context, watch)
}

fn remove(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    process::run(&mut unpack(context)?)?;
    let mut rm = Command::new("rm");
    rm.arg("-rf").args(fs::read_dir(context.scratch)?.flatten().map(|entry| entry.path()));
    timed(&mut rm, context, watch)
}

fn build(context: &RunContext<'_>, watch: &mut Stopwatch<'_>) -> io::Result<()> {
    // An empty `[workspace]` keeps cargo from looking for one in the parent directories.
    const MANIFEST: &str =
        "[package]\nname = \"tiny\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n";
    const LIBRARY: &str = "pub fn double(x: u64) -> u64 {\n    x * 2\n}\n";
    const MAIN: &str = "fn main() {\n    println!(\"{}\", tiny::double(21));\n}\n";
    fs::create_dir(context.scratch.join("src"))?;
    fs::write(context.scratch.join("Cargo.toml"), MANIFEST)?;
    fs::write(context.scratch.join("src/lib.rs"), LIBRARY)?;
    fs::write(context.scratch.join("src/main.rs"), MAIN)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--offline"]).current_dir(context.scratch);
    cargo.env_remove("CARGO_TARGET_DIR");
    watch.time(|| process::run(&mut cargo).map(|_| 1))
}
