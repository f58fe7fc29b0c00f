//! Kernel settings below `/proc/sys/net`, which belong to the namespace of the thread that opens them.
//!
//! Never decides a value. Writes only values that differ.

use std::fs;
use std::path::PathBuf;

use super::{Error, Netns};

impl Netns {
    /// Reads a setting of this namespace, without its line end. `key` is a path such as `net/ipv4/ip_forward`, with
    /// slashes, because interface names can have dots.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the namespace has no such setting, [`Error::Invalid`] for a key outside `net/`.
    pub async fn get_sysctl(&self, key: &str) -> Result<String, Error> {
        let path = path_of(key)?;
        self.run(move || read(&path)).await?
    }

    /// Those of several settings that are not as given, read in one visit to the namespace's thread. One that the namespace
    /// does not have is none of them.
    ///
    /// # Errors
    /// As [`Netns::get_sysctl`], but for [`Error::NotFound`].
    pub async fn differing_sysctls(
        &self,
        settings: Vec<(String, &'static str)>,
    ) -> Result<Vec<(String, &'static str)>, Error> {
        let paths = settings.iter().map(|(key, _)| path_of(key)).collect::<Result<Vec<_>, _>>()?;
        self.run(move || {
            let mut differing = Vec::new();
            for (setting, path) in settings.into_iter().zip(&paths) {
                match read(path) {
                    Ok(value) if value == setting.1 => {}
                    Ok(_) => differing.push(setting),
                    Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(differing)
        })
        .await?
    }

    /// Sets a setting of this namespace; true when it had another value.
    ///
    /// # Errors
    /// As [`Netns::get_sysctl`]; [`Error::Kernel`] when the kernel refuses the value.
    pub async fn set_sysctl(&self, key: &str, value: &str) -> Result<bool, Error> {
        self.set_sysctls(&[(key, value)]).await.map(|written| written == 1)
    }

    /// Sets several settings in one closure on the namespace's thread; returns how many had other values.
    ///
    /// # Errors
    /// As [`Netns::set_sysctl`], for the first setting that fails; those before it are set.
    pub async fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<usize, Error> {
        let settings: Vec<(PathBuf, String)> = settings
            .iter()
            .map(|(key, value)| path_of(key).map(|path| (path, (*value).to_owned())))
            .collect::<Result<_, _>>()?;
        self.run(move || {
            let mut written = 0;
            for (path, value) in &settings {
                if read(path)? != *value {
                    fs::write(path, value).map_err(|source| Error::io("write", path.display().to_string(), source))?;
                    written += 1;
                }
            }
            Ok(written)
        })
        .await?
    }
}

fn read(path: &PathBuf) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::io("read", path.display().to_string(), source))?;
    Ok(text.trim_end().to_owned())
}

fn path_of(key: &str) -> Result<PathBuf, Error> {
    let parts = || key.split('/');
    if !key.starts_with("net/") || parts().any(|part| part.is_empty() || part == "." || part == "..") {
        let expected = "expected a path below net/, for example net/ipv4/ip_forward";
        return Err(Error::Invalid { what: "kernel setting", value: key.to_owned(), expected });
    }
    Ok(PathBuf::from("/proc/sys").join(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_below_net_or_refused() {
        assert!(path_of("net/ipv4/ip_forward").is_ok());
        assert!(path_of("net/ipv6/conf/eth0.7/disable_ipv6").is_ok());
        for bad in
            ["", "net", "kernel/hostname", "/net/ipv4", "net/../kernel/hostname", "net//x", "net.ipv4.ip_forward"]
        {
            assert!(path_of(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
