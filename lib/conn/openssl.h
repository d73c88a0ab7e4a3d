/* openssl.h — OpenSSL, loaded when TLS is first wanted: a process without TLS pays neither for its relocations, 460 KB
 * of private memory, nor for slower starts and forks.
 *
 * Its functions are called by their own names, through a table. A name that lacks its row does not link, a row that
 * lacks its name is not used.
 *
 * Any thread. The table is written once, before anybody uses it. */
#ifndef HARK__OPENSSL_H
#define HARK__OPENSSL_H

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "hark.h"

/* Loads it, where that was not done yet. 0, or -ENOPKG with why: no file, not a library, an older one. A file that was
 * not found is looked for again. */
int hark__openssl_load(struct hark_why *why);

/* clang-format off: a table, a function a row; those that OpenSSL's macros come to are among them */
#define HARK__OPENSSL_CALLS(X) \
	X(ASN1_STRING_get0_data) \
	X(ASN1_STRING_length) \
	X(ASN1_TIME_to_tm) \
	X(BIO_clear_flags) \
	X(BIO_ctrl) \
	X(BIO_free) \
	X(BIO_get_data) \
	X(BIO_get_new_index) \
	X(BIO_meth_free) \
	X(BIO_meth_new) \
	X(BIO_meth_set_ctrl) \
	X(BIO_meth_set_read) \
	X(BIO_meth_set_write) \
	X(BIO_new) \
	X(BIO_new_mem_buf) \
	X(BIO_read) \
	X(BIO_s_mem) \
	X(BIO_set_data) \
	X(BIO_set_flags) \
	X(BIO_set_init) \
	X(ERR_clear_error) \
	X(ERR_peek_error) \
	X(ERR_peek_last_error) \
	X(ERR_reason_error_string) \
	X(EVP_DecryptInit_ex) \
	X(EVP_EncryptInit_ex) \
	X(EVP_MAC_CTX_set_params) \
	X(EVP_PKEY_free) \
	X(EVP_PKEY_get_base_id) \
	X(EVP_PKEY_get_bits) \
	X(EVP_PKEY_get_group_name) \
	X(EVP_aes_256_cbc) \
	X(EVP_sha256) \
	X(GENERAL_NAMES_free) \
	X(OBJ_nid2sn) \
	X(OPENSSL_cleanse) \
	X(OPENSSL_init_ssl) \
	X(OPENSSL_sk_new_null) \
	X(OPENSSL_sk_num) \
	X(OPENSSL_sk_pop_free) \
	X(OPENSSL_sk_push) \
	X(OPENSSL_sk_shift) \
	X(OPENSSL_sk_value) \
	X(OSSL_PARAM_construct_end) \
	X(OSSL_PARAM_construct_octet_string) \
	X(OSSL_PARAM_construct_utf8_string) \
	X(PEM_read_bio_PrivateKey) \
	X(PEM_read_bio_X509) \
	X(PEM_read_bio_X509_CRL) \
	X(PEM_write_bio_X509) \
	X(RAND_bytes) \
	X(SHA256) \
	X(SSL_CIPHER_get_name) \
	X(SSL_CTX_callback_ctrl) \
	X(SSL_CTX_ctrl) \
	X(SSL_CTX_free) \
	X(SSL_CTX_get0_certificate) \
	X(SSL_CTX_get0_privatekey) \
	X(SSL_CTX_new) \
	X(SSL_CTX_set1_cert_store) \
	X(SSL_CTX_set_alpn_protos) \
	X(SSL_CTX_set_alpn_select_cb) \
	X(SSL_CTX_set_cipher_list) \
	X(SSL_CTX_set_client_CA_list) \
	X(SSL_CTX_set_options) \
	X(SSL_CTX_set_session_id_context) \
	X(SSL_CTX_set_session_ticket_cb) \
	X(SSL_CTX_set_timeout) \
	X(SSL_CTX_set_tlsext_ticket_key_evp_cb) \
	X(SSL_CTX_use_cert_and_key) \
	X(SSL_SESSION_get0_ticket_appdata) \
	X(SSL_SESSION_get_timeout) \
	X(SSL_SESSION_set1_ticket_appdata) \
	X(SSL_alert_desc_string_long) \
	X(SSL_client_hello_get0_ext) \
	X(SSL_ctrl) \
	X(SSL_do_handshake) \
	X(SSL_dup_CA_list) \
	X(SSL_free) \
	X(SSL_get0_alpn_selected) \
	X(SSL_get0_param) \
	X(SSL_get0_peer_certificate) \
	X(SSL_get0_verified_chain) \
	X(SSL_get_current_cipher) \
	X(SSL_get_error) \
	X(SSL_get_ex_data) \
	X(SSL_get_ex_data_X509_STORE_CTX_idx) \
	X(SSL_get_peer_cert_chain) \
	X(SSL_get_servername) \
	X(SSL_get_session) \
	X(SSL_get_verify_result) \
	X(SSL_get_version) \
	X(SSL_group_to_name) \
	X(SSL_has_pending) \
	X(SSL_new) \
	X(SSL_new_session_ticket) \
	X(SSL_peek_ex) \
	X(SSL_pending) \
	X(SSL_read_ex) \
	X(SSL_select_next_proto) \
	X(SSL_session_reused) \
	X(SSL_set_SSL_CTX) \
	X(SSL_set_accept_state) \
	X(SSL_set_bio) \
	X(SSL_set_connect_state) \
	X(SSL_set_ex_data) \
	X(SSL_set_msg_callback) \
	X(SSL_set_num_tickets) \
	X(SSL_set_options) \
	X(SSL_set_verify) \
	X(SSL_shutdown) \
	X(SSL_version) \
	X(SSL_write_ex) \
	X(TLS_method) \
	X(X509_CRL_free) \
	X(X509_NAME_ENTRY_get_data) \
	X(X509_NAME_dup) \
	X(X509_NAME_free) \
	X(X509_NAME_get_entry) \
	X(X509_NAME_get_index_by_NID) \
	X(X509_NAME_print_ex) \
	X(X509_STORE_CTX_get_current_cert) \
	X(X509_STORE_CTX_get_error) \
	X(X509_STORE_CTX_get_error_depth) \
	X(X509_STORE_CTX_get_ex_data) \
	X(X509_STORE_add_cert) \
	X(X509_STORE_add_crl) \
	X(X509_STORE_free) \
	X(X509_STORE_new) \
	X(X509_STORE_set_default_paths) \
	X(X509_STORE_set_flags) \
	X(X509_VERIFY_PARAM_set1_host) \
	X(X509_VERIFY_PARAM_set1_ip_asc) \
	X(X509_VERIFY_PARAM_set_hostflags) \
	X(X509_chain_up_ref) \
	X(X509_check_private_key) \
	X(X509_digest) \
	X(X509_free) \
	X(X509_get0_notAfter) \
	X(X509_get0_notBefore) \
	X(X509_get0_pubkey) \
	X(X509_get0_serialNumber) \
	X(X509_get_ext_d2i) \
	X(X509_get_issuer_name) \
	X(X509_get_subject_name) \
	X(X509_up_ref) \
	X(X509_verify_cert_error_string)

#define HARK__OPENSSL_MEMBER(name) __typeof__(name) *name;
struct hark__openssl {
	HARK__OPENSSL_CALLS(HARK__OPENSSL_MEMBER)
};
#undef HARK__OPENSSL_MEMBER

extern struct hark__openssl hark__openssl;

#define ASN1_STRING_get0_data                hark__openssl.ASN1_STRING_get0_data
#define ASN1_STRING_length                   hark__openssl.ASN1_STRING_length
#define ASN1_TIME_to_tm                      hark__openssl.ASN1_TIME_to_tm
#define BIO_clear_flags                      hark__openssl.BIO_clear_flags
#define BIO_ctrl                             hark__openssl.BIO_ctrl
#define BIO_free                             hark__openssl.BIO_free
#define BIO_get_data                         hark__openssl.BIO_get_data
#define BIO_get_new_index                    hark__openssl.BIO_get_new_index
#define BIO_meth_free                        hark__openssl.BIO_meth_free
#define BIO_meth_new                         hark__openssl.BIO_meth_new
#define BIO_meth_set_ctrl                    hark__openssl.BIO_meth_set_ctrl
#define BIO_meth_set_read                    hark__openssl.BIO_meth_set_read
#define BIO_meth_set_write                   hark__openssl.BIO_meth_set_write
#define BIO_new                              hark__openssl.BIO_new
#define BIO_new_mem_buf                      hark__openssl.BIO_new_mem_buf
#define BIO_read                             hark__openssl.BIO_read
#define BIO_s_mem                            hark__openssl.BIO_s_mem
#define BIO_set_data                         hark__openssl.BIO_set_data
#define BIO_set_flags                        hark__openssl.BIO_set_flags
#define BIO_set_init                         hark__openssl.BIO_set_init
#define ERR_clear_error                      hark__openssl.ERR_clear_error
#define ERR_peek_error                       hark__openssl.ERR_peek_error
#define ERR_peek_last_error                  hark__openssl.ERR_peek_last_error
#define ERR_reason_error_string              hark__openssl.ERR_reason_error_string
#define EVP_DecryptInit_ex                   hark__openssl.EVP_DecryptInit_ex
#define EVP_EncryptInit_ex                   hark__openssl.EVP_EncryptInit_ex
#define EVP_MAC_CTX_set_params               hark__openssl.EVP_MAC_CTX_set_params
#define EVP_PKEY_free                        hark__openssl.EVP_PKEY_free
#define EVP_PKEY_get_base_id                 hark__openssl.EVP_PKEY_get_base_id
#define EVP_PKEY_get_bits                    hark__openssl.EVP_PKEY_get_bits
#define EVP_PKEY_get_group_name              hark__openssl.EVP_PKEY_get_group_name
#define EVP_aes_256_cbc                      hark__openssl.EVP_aes_256_cbc
#define EVP_sha256                           hark__openssl.EVP_sha256
#define GENERAL_NAMES_free                   hark__openssl.GENERAL_NAMES_free
#define OBJ_nid2sn                           hark__openssl.OBJ_nid2sn
#define OPENSSL_cleanse                      hark__openssl.OPENSSL_cleanse
#define OPENSSL_init_ssl                     hark__openssl.OPENSSL_init_ssl
#define OPENSSL_sk_new_null                  hark__openssl.OPENSSL_sk_new_null
#define OPENSSL_sk_num                       hark__openssl.OPENSSL_sk_num
#define OPENSSL_sk_pop_free                  hark__openssl.OPENSSL_sk_pop_free
#define OPENSSL_sk_push                      hark__openssl.OPENSSL_sk_push
#define OPENSSL_sk_shift                     hark__openssl.OPENSSL_sk_shift
#define OPENSSL_sk_value                     hark__openssl.OPENSSL_sk_value
#define OSSL_PARAM_construct_end             hark__openssl.OSSL_PARAM_construct_end
#define OSSL_PARAM_construct_octet_string    hark__openssl.OSSL_PARAM_construct_octet_string
#define OSSL_PARAM_construct_utf8_string     hark__openssl.OSSL_PARAM_construct_utf8_string
#define PEM_read_bio_PrivateKey              hark__openssl.PEM_read_bio_PrivateKey
#define PEM_read_bio_X509                    hark__openssl.PEM_read_bio_X509
#define PEM_read_bio_X509_CRL                hark__openssl.PEM_read_bio_X509_CRL
#define PEM_write_bio_X509                   hark__openssl.PEM_write_bio_X509
#define RAND_bytes                           hark__openssl.RAND_bytes
#define SHA256                               hark__openssl.SHA256
#define SSL_CIPHER_get_name                  hark__openssl.SSL_CIPHER_get_name
#define SSL_CTX_callback_ctrl                hark__openssl.SSL_CTX_callback_ctrl
#define SSL_CTX_ctrl                         hark__openssl.SSL_CTX_ctrl
#define SSL_CTX_free                         hark__openssl.SSL_CTX_free
#define SSL_CTX_get0_certificate             hark__openssl.SSL_CTX_get0_certificate
#define SSL_CTX_get0_privatekey              hark__openssl.SSL_CTX_get0_privatekey
#define SSL_CTX_new                          hark__openssl.SSL_CTX_new
#define SSL_CTX_set1_cert_store              hark__openssl.SSL_CTX_set1_cert_store
#define SSL_CTX_set_alpn_protos              hark__openssl.SSL_CTX_set_alpn_protos
#define SSL_CTX_set_alpn_select_cb           hark__openssl.SSL_CTX_set_alpn_select_cb
#define SSL_CTX_set_cipher_list              hark__openssl.SSL_CTX_set_cipher_list
#define SSL_CTX_set_client_CA_list           hark__openssl.SSL_CTX_set_client_CA_list
#define SSL_CTX_set_options                  hark__openssl.SSL_CTX_set_options
#define SSL_CTX_set_session_id_context       hark__openssl.SSL_CTX_set_session_id_context
#define SSL_CTX_set_session_ticket_cb        hark__openssl.SSL_CTX_set_session_ticket_cb
#define SSL_CTX_set_timeout                  hark__openssl.SSL_CTX_set_timeout
#define SSL_CTX_set_tlsext_ticket_key_evp_cb hark__openssl.SSL_CTX_set_tlsext_ticket_key_evp_cb
#define SSL_CTX_use_cert_and_key             hark__openssl.SSL_CTX_use_cert_and_key
#define SSL_SESSION_get0_ticket_appdata      hark__openssl.SSL_SESSION_get0_ticket_appdata
#define SSL_SESSION_get_timeout              hark__openssl.SSL_SESSION_get_timeout
#define SSL_SESSION_set1_ticket_appdata      hark__openssl.SSL_SESSION_set1_ticket_appdata
#define SSL_alert_desc_string_long           hark__openssl.SSL_alert_desc_string_long
#define SSL_client_hello_get0_ext            hark__openssl.SSL_client_hello_get0_ext
#define SSL_ctrl                             hark__openssl.SSL_ctrl
#define SSL_do_handshake                     hark__openssl.SSL_do_handshake
#define SSL_dup_CA_list                      hark__openssl.SSL_dup_CA_list
#define SSL_free                             hark__openssl.SSL_free
#define SSL_get0_alpn_selected               hark__openssl.SSL_get0_alpn_selected
#define SSL_get0_param                       hark__openssl.SSL_get0_param
#define SSL_get0_peer_certificate            hark__openssl.SSL_get0_peer_certificate
#define SSL_get0_verified_chain              hark__openssl.SSL_get0_verified_chain
#define SSL_get_current_cipher               hark__openssl.SSL_get_current_cipher
#define SSL_get_error                        hark__openssl.SSL_get_error
#define SSL_get_ex_data                      hark__openssl.SSL_get_ex_data
#define SSL_get_ex_data_X509_STORE_CTX_idx   hark__openssl.SSL_get_ex_data_X509_STORE_CTX_idx
#define SSL_get_peer_cert_chain              hark__openssl.SSL_get_peer_cert_chain
#define SSL_get_servername                   hark__openssl.SSL_get_servername
#define SSL_get_session                      hark__openssl.SSL_get_session
#define SSL_get_verify_result                hark__openssl.SSL_get_verify_result
#define SSL_get_version                      hark__openssl.SSL_get_version
#define SSL_group_to_name                    hark__openssl.SSL_group_to_name
#define SSL_has_pending                      hark__openssl.SSL_has_pending
#define SSL_new                              hark__openssl.SSL_new
#define SSL_new_session_ticket               hark__openssl.SSL_new_session_ticket
#define SSL_peek_ex                          hark__openssl.SSL_peek_ex
#define SSL_pending                          hark__openssl.SSL_pending
#define SSL_read_ex                          hark__openssl.SSL_read_ex
#define SSL_select_next_proto                hark__openssl.SSL_select_next_proto
#define SSL_session_reused                   hark__openssl.SSL_session_reused
#define SSL_set_SSL_CTX                      hark__openssl.SSL_set_SSL_CTX
#define SSL_set_accept_state                 hark__openssl.SSL_set_accept_state
#define SSL_set_bio                          hark__openssl.SSL_set_bio
#define SSL_set_connect_state                hark__openssl.SSL_set_connect_state
#define SSL_set_ex_data                      hark__openssl.SSL_set_ex_data
#define SSL_set_msg_callback                 hark__openssl.SSL_set_msg_callback
#define SSL_set_num_tickets                  hark__openssl.SSL_set_num_tickets
#define SSL_set_options                      hark__openssl.SSL_set_options
#define SSL_set_verify                       hark__openssl.SSL_set_verify
#define SSL_shutdown                         hark__openssl.SSL_shutdown
#define SSL_version                          hark__openssl.SSL_version
#define SSL_write_ex                         hark__openssl.SSL_write_ex
#define TLS_method                           hark__openssl.TLS_method
#define X509_CRL_free                        hark__openssl.X509_CRL_free
#define X509_NAME_ENTRY_get_data             hark__openssl.X509_NAME_ENTRY_get_data
#define X509_NAME_dup                        hark__openssl.X509_NAME_dup
#define X509_NAME_free                       hark__openssl.X509_NAME_free
#define X509_NAME_get_entry                  hark__openssl.X509_NAME_get_entry
#define X509_NAME_get_index_by_NID           hark__openssl.X509_NAME_get_index_by_NID
#define X509_NAME_print_ex                   hark__openssl.X509_NAME_print_ex
#define X509_STORE_CTX_get_current_cert      hark__openssl.X509_STORE_CTX_get_current_cert
#define X509_STORE_CTX_get_error             hark__openssl.X509_STORE_CTX_get_error
#define X509_STORE_CTX_get_error_depth       hark__openssl.X509_STORE_CTX_get_error_depth
#define X509_STORE_CTX_get_ex_data           hark__openssl.X509_STORE_CTX_get_ex_data
#define X509_STORE_add_cert                  hark__openssl.X509_STORE_add_cert
#define X509_STORE_add_crl                   hark__openssl.X509_STORE_add_crl
#define X509_STORE_free                      hark__openssl.X509_STORE_free
#define X509_STORE_new                       hark__openssl.X509_STORE_new
#define X509_STORE_set_default_paths         hark__openssl.X509_STORE_set_default_paths
#define X509_STORE_set_flags                 hark__openssl.X509_STORE_set_flags
#define X509_VERIFY_PARAM_set1_host          hark__openssl.X509_VERIFY_PARAM_set1_host
#define X509_VERIFY_PARAM_set1_ip_asc        hark__openssl.X509_VERIFY_PARAM_set1_ip_asc
#define X509_VERIFY_PARAM_set_hostflags      hark__openssl.X509_VERIFY_PARAM_set_hostflags
#define X509_chain_up_ref                    hark__openssl.X509_chain_up_ref
#define X509_check_private_key               hark__openssl.X509_check_private_key
#define X509_digest                          hark__openssl.X509_digest
#define X509_free                            hark__openssl.X509_free
#define X509_get0_notAfter                   hark__openssl.X509_get0_notAfter
#define X509_get0_notBefore                  hark__openssl.X509_get0_notBefore
#define X509_get0_pubkey                     hark__openssl.X509_get0_pubkey
#define X509_get0_serialNumber               hark__openssl.X509_get0_serialNumber
#define X509_get_ext_d2i                     hark__openssl.X509_get_ext_d2i
#define X509_get_issuer_name                 hark__openssl.X509_get_issuer_name
#define X509_get_subject_name                hark__openssl.X509_get_subject_name
#define X509_up_ref                          hark__openssl.X509_up_ref
#define X509_verify_cert_error_string        hark__openssl.X509_verify_cert_error_string
/* clang-format on */

#endif
