/* Prints what the C compiler makes of the header's structures: name, size, then the offset of every member. */
#include "bertha_plugin.h"

#define SIZE(type) printf("\n%s %zu", #type, sizeof(type));
#define AT(type, member) printf(" %s=%zu", #member, offsetof(type, member));

int main(void) {
    SIZE(bertha_text) AT(bertha_text, data) AT(bertha_text, length)
    SIZE(bertha_field) AT(bertha_field, name) AT(bertha_field, kind) AT(bertha_field, reserved)
    AT(bertha_field, integer) AT(bertha_field, number) AT(bertha_field, text) AT(bertha_field, integers)
    AT(bertha_field, numbers) AT(bertha_field, count)
    SIZE(bertha_field_spec) AT(bertha_field_spec, value) AT(bertha_field_spec, has_default)
    AT(bertha_field_spec, reserved) AT(bertha_field_spec, min) AT(bertha_field_spec, max)
    AT(bertha_field_spec, description)
    SIZE(bertha_tensor) AT(bertha_tensor, data) AT(bertha_tensor, shape) AT(bertha_tensor, rank)
    AT(bertha_tensor, dtype)
    SIZE(bertha_call) AT(bertha_call, plugin) AT(bertha_call, fields) AT(bertha_call, field_count)
    AT(bertha_call, inputs) AT(bertha_call, input_count) AT(bertha_call, outputs) AT(bertha_call, output_count)
    AT(bertha_call, message) AT(bertha_call, message_capacity) AT(bertha_call, threads) AT(bertha_call, host)
    AT(bertha_call, parallel_for) AT(bertha_call, set_output)
    SIZE(bertha_cuda) AT(bertha_cuda, source) AT(bertha_cuda, entry) AT(bertha_cuda, items) AT(bertha_cuda, block)
    AT(bertha_cuda, items_per_block) AT(bertha_cuda, shared_bytes) AT(bertha_cuda, reserved)
    SIZE(bertha_plugin) AT(bertha_plugin, plugin) AT(bertha_plugin, name) AT(bertha_plugin, domain)
    AT(bertha_plugin, op_type) AT(bertha_plugin, signature) AT(bertha_plugin, description) AT(bertha_plugin, version)
    AT(bertha_plugin, flags) AT(bertha_plugin, fields) AT(bertha_plugin, field_count) AT(bertha_plugin, shapes)
    AT(bertha_plugin, reference) AT(bertha_plugin, kernel) AT(bertha_plugin, cuda)
    SIZE(bertha_library) AT(bertha_library, abi) AT(bertha_library, sizes) AT(bertha_library, plugin_count)
    AT(bertha_library, plugins)
    printf("\nconstants abi=%u absent=%d untold=%u", BERTHA_PLUGIN_ABI, BERTHA_ABSENT, BERTHA_UNTOLD);
    printf(" int=%d float=%d text=%d ints=%d floats=%d", BERTHA_INT, BERTHA_FLOAT, BERTHA_STRING, BERTHA_INTS,
           BERTHA_FLOATS);
    printf(" f64=%d f32=%d f16=%d bf16=%d i64=%d i32=%d i16=%d i8=%d u64=%d u32=%d u16=%d u8=%d bool=%d\n",
           BERTHA_F64, BERTHA_F32, BERTHA_F16, BERTHA_BF16, BERTHA_I64, BERTHA_I32, BERTHA_I16, BERTHA_I8, BERTHA_U64,
           BERTHA_U32, BERTHA_U16, BERTHA_U8, BERTHA_BOOL);
    return 0;
}
