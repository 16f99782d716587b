//! `cargo bench -p ganger-bench --bench cli`: the same as `ganger bench cli`.
fn main() -> std::process::ExitCode {
    ganger_bench::main("process")
}
