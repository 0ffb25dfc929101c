//! NVRTC's functions, as `nvrtc.h` declares them.

use std::ffi::{CStr, c_char, c_int, c_void};

use libloading::Library;

pub(super) type Program = *mut c_void;
pub(super) const NVRTC_SUCCESS: c_int = 0;

macro_rules! nvrtc_api {
    ($( $name:ident = $symbol:literal ( $($arg:ty),* $(,)? ); )*) => {
        /// The functions; valid as long as the library is loaded, which is as long as this lives.
        pub(super) struct Api {
            $( pub(super) $name: unsafe extern "C" fn($($arg),*) -> c_int, )*
            error_string: unsafe extern "C" fn(c_int) -> *const c_char,
            _library: Library,
        }

        impl Api {
            /// Looks every function up; the error names the first that is missing.
            pub(super) fn from_library(library: Library) -> Result<Self, String> {
                let missing = |symbol: &[u8]| format!("it lacks {}", String::from_utf8_lossy(symbol));
                $(
                    // SAFETY: the signature is the one that `nvrtc.h` declares for this symbol.
                    let $name = unsafe {
                        *library
                            .get::<unsafe extern "C" fn($($arg),*) -> c_int>($symbol)
                            .map_err(|_| missing($symbol))?
                    };
                )*
                // SAFETY: as above.
                let error_string = unsafe {
                    *library
                        .get::<unsafe extern "C" fn(c_int) -> *const c_char>(b"nvrtcGetErrorString")
                        .map_err(|_| missing(b"nvrtcGetErrorString"))?
                };
                Ok(Api { $( $name, )* error_string, _library: library })
            }
        }
    };
}

nvrtc_api! {
    version = b"nvrtcVersion" (*mut c_int, *mut c_int);
    create = b"nvrtcCreateProgram" (
        *mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
    );
    compile = b"nvrtcCompileProgram" (Program, c_int, *const *const c_char);
    destroy = b"nvrtcDestroyProgram" (*mut Program);
    log_size = b"nvrtcGetProgramLogSize" (Program, *mut usize);
    log = b"nvrtcGetProgramLog" (Program, *mut c_char);
    cubin_size = b"nvrtcGetCUBINSize" (Program, *mut usize);
    cubin = b"nvrtcGetCUBIN" (Program, *mut c_char);
}

impl Api {
    /// The compiler's words for a status.
    pub(super) fn message(&self, status: c_int) -> String {
        // SAFETY: the function returns a static string for every number.
        let text = unsafe { (self.error_string)(status) };
        if text.is_null() {
            return format!("error {status}");
        }
        // SAFETY: static and zero-terminated.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}
