//! tidy
pub fn task(_: bool) -> anyhow::Result<()> {
    Ok(())
}
