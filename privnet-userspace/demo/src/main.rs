//! `privnet demo`: two hosts in throw-away namespaces, and one request along the whole path.
//!
//! What it shows is measured, never narrated: each step has its evidence, and each refusal its passing twin. It needs
//! nothing but this binary and the `privnet` beside it. Whatever happens, it leaves nothing behind, unless it is asked to.
//!
//! | module | what it owns |
//! |---|---|
//! | [`args`], [`name`] | the grammar; what everything is called |
//! | [`show`] | the order: build, show, remove |
//! | [`privileges`], [`claim`], [`signals`] | what has to hold before anything is made; how it ends early |
//! | [`lab`] | building the two hosts and their containers |
//! | [`teardown`] | removing all of it, found by its name |
//! | [`walk`], [`naming`], [`isolation`] | the steps |
//! | [`capture`], [`frame`], [`measure`] | the evidence: frames, counters, interfaces |
//! | [`http`] | the processes in the containers |
//! | [`report`] | the steps as text and as JSON |

#![forbid(unsafe_code)]

mod args;
mod capture;
mod claim;
mod frame;
mod http;
mod isolation;
mod lab;
mod measure;
mod name;
mod naming;
mod privileges;
mod report;
mod show;
mod signals;
mod teardown;
mod walk;

use std::process::ExitCode;

use privnet::cli::{logging, output, parse};

use args::{Cli, Verb};

fn main() -> ExitCode {
    let cli: Cli = match parse::own_arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    logging::start(false);
    let done = match &cli.verb {
        None => show::run(&cli.demo, cli.output),
        Some(Verb::Serve(arguments)) => http::serve(arguments).map(|()| ExitCode::SUCCESS),
        Some(Verb::Fetch(arguments)) => http::fetch(arguments),
    };
    done.unwrap_or_else(|error| {
        output::print_error(cli.output, &error);
        ExitCode::FAILURE
    })
}
