import java.io.InputStream;
import java.net.InetAddress;
import java.security.cert.X509Certificate;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/**
 * A client on Java's own TLS (JSSE). Arguments: VIP PROTOCOLS, then a line of standard input for each connection: CLIENT SOURCE. Each
 * CLIENT is one SSLContext, and so one cache of sessions. Answers each line with the page's last line.
 */
class Client {
    static SSLContext context() throws Exception {
        X509TrustManager all = new X509TrustManager() {
            public void checkClientTrusted(X509Certificate[] chain, String type) {}
            public void checkServerTrusted(X509Certificate[] chain, String type) {}
            public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
        };
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {all}, null);
        return context;
    }

    public static void main(String[] arguments) throws Exception {
        java.util.Map<String, SSLContext> contexts = new java.util.HashMap<>();
        java.io.BufferedReader lines = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null;) {
            String[] words = line.split(" ");
            if (!contexts.containsKey(words[0])) {
                contexts.put(words[0], context());
            }
            String page;
            try (SSLSocket socket = (SSLSocket) contexts.get(words[0]).getSocketFactory()
                    .createSocket(InetAddress.getByName(arguments[0]), 443, InetAddress.getByName(words[1]), 0)) {
                socket.setSoTimeout(20000);
                socket.setEnabledProtocols(arguments[1].split(","));
                socket.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes());
                page = new String(socket.getInputStream().readAllBytes()).trim();
            } catch (Exception e) {
                page = "failed: " + e;
            }
            System.out.println(page.substring(page.lastIndexOf('\n') + 1));
        }
    }
}
