//! The run-time compiler of CUDA kernels, from its shared library.

mod find;
mod sys;

use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

pub use find::VARIABLE as NVRTC_VARIABLE;

use crate::arch::Arch;
use crate::driver::CudaError;
use sys::{Api, NVRTC_SUCCESS};

/// The compiler.
pub struct Nvrtc {
    api: Api,
    path: PathBuf,
    version: (u32, u32),
    /// The library that NVRTC itself loads by name; kept loaded.
    _builtins: Option<Library>,
}

/// What came of a compilation.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// What the compiler said: registers, spills and shared memory of each kernel, and warnings.
    pub log: String,
}

/// A source and what it includes.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// The text.
    pub text: &'a str,
    /// Headers by the names they are included by.
    pub headers: &'a [(&'a str, &'a str)],
}

impl Nvrtc {
    /// The compiler of this machine, loaded once for the process.
    ///
    /// # Errors
    /// [`CudaError::NoNvrtc`] when it is nowhere, [`CudaError::BadNvrtc`] when it is there and too old or broken.
    pub fn get() -> Result<&'static Self, CudaError> {
        static NVRTC: OnceLock<Result<Nvrtc, CudaError>> = OnceLock::new();
        NVRTC.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, CudaError> {
        let candidates = find::candidates();
        let mut broken = None;
        for file in &candidates.files {
            let builtins = find::builtins_beside(file).and_then(|path| {
                // SAFETY: a library of the compiler's own, without effects at load.
                unsafe { Library::new(path) }.ok()
            });
            // SAFETY: the compiler's library has no effects at load beyond its own state.
            match unsafe { Library::new(file) } {
                Ok(library) => return Self::from_library(library, file, builtins),
                Err(error) if file.is_absolute() => {
                    broken.get_or_insert((file.display().to_string(), error.to_string()));
                }
                Err(_) => {}
            }
        }
        Err(match broken {
            Some((path, why)) => CudaError::BadNvrtc { path, why },
            None => CudaError::NoNvrtc { looked_in: candidates.places.join(", ") },
        })
    }

    fn from_library(library: Library, file: &Path, builtins: Option<Library>) -> Result<Self, CudaError> {
        let bad = |why: String| CudaError::BadNvrtc { path: file.display().to_string(), why };
        let api = Api::from_library(library).map_err(bad)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the pointers are to locals that live through the call.
        unsafe { (api.version)(&mut major, &mut minor) };
        if (major, minor) < (12, 4) {
            return Err(bad(format!("it is version {major}.{minor}, and 12.4 or newer is needed")));
        }
        let version = (major.unsigned_abs(), minor.unsigned_abs());
        Ok(Nvrtc { api, path: file.to_owned(), version, _builtins: builtins })
    }

    /// Its version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The file it was loaded from; a bare name when the loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compiles `source` to machine code for `arch` with the given macros.
    ///
    /// # Errors
    /// [`CudaError::Compile`] with the compiler's words.
    pub fn compile(
        &self,
        source: &Source<'_>,
        macros: &[(String, String)],
        arch: Arch,
    ) -> Result<Compiled, CudaError> {
        let failed =
            |log: String| CudaError::Compile { kernel: source.name.to_owned(), arch: arch.to_string(), log };
        let text = |text: &str| CString::new(text).map_err(|_| failed("a zero in the source".into()));
        let (code, name) = (text(source.text)?, text(source.name)?);
        let mut header_names = Vec::new();
        let mut header_texts = Vec::new();
        for (name, content) in source.headers {
            header_names.push(text(name)?);
            header_texts.push(text(content)?);
        }
        let options: Vec<CString> =
            self.options(macros, arch).iter().map(|option| text(option)).collect::<Result<_, _>>()?;
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|string| string.as_ptr()).collect()
        };
        let (names, texts) = (pointers(&header_names), pointers(&header_texts));
        let mut program = Program { api: &self.api, raw: std::ptr::null_mut() };
        // SAFETY: all strings are zero-terminated and live through the call, and the arrays have the given length.
        let status = unsafe {
            (self.api.create)(
                &mut program.raw,
                code.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        if status != NVRTC_SUCCESS {
            return Err(failed(self.api.message(status)));
        }
        let arguments = pointers(&options);
        // SAFETY: the program was made above; the options live through the call.
        let status = unsafe { (self.api.compile)(program.raw, arguments.len() as c_int, arguments.as_ptr()) };
        let log = program.log();
        if status != NVRTC_SUCCESS {
            return Err(failed(format!("{}\n{}", self.api.message(status), log.trim())));
        }
        let cubin = program.cubin().map_err(|status| failed(self.api.message(status)))?;
        Ok(Compiled { cubin, log })
    }

    fn options(&self, macros: &[(String, String)], arch: Arch) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={}", arch.name()),
            "--std=c++17".to_owned(),
            "--device-as-default-execution-space".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ];
        // Leaves out declarations of the runtime that no kernel here uses. The compiler's parser serves one thread at a time,
        // so that all that it does not read counts.
        if self.version >= (13, 0) {
            options.push("--minimal".to_owned());
        }
        options.extend(macros.iter().map(|(name, value)| match value.as_str() {
            "" => format!("-D{name}"),
            value => format!("-D{name}={value}"),
        }));
        options
    }
}

/// A program in the compiler; destroyed when dropped.
struct Program<'a> {
    api: &'a Api,
    raw: sys::Program,
}

impl Program<'_> {
    fn log(&self) -> String {
        let mut size = 0;
        // SAFETY: the program is alive; the pointer is to a local.
        if unsafe { (self.api.log_size)(self.raw, &mut size) } != NVRTC_SUCCESS || size == 0 {
            return String::new();
        }
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that the compiler asked for.
        unsafe { (self.api.log)(self.raw, bytes.as_mut_ptr().cast()) };
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>, c_int> {
        let ok = |status| if status == NVRTC_SUCCESS { Ok(()) } else { Err(status) };
        let mut size = 0;
        // SAFETY: the program is alive; the pointer is to a local.
        ok(unsafe { (self.api.cubin_size)(self.raw, &mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that the compiler asked for.
        ok(unsafe { (self.api.cubin)(self.raw, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: made once, destroyed once.
            unsafe { (self.api.destroy)(&mut self.raw) };
        }
    }
}
